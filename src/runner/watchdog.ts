/** Calls `bite` once if it is not petted for `afterMs`. Petting costs a number, not a timer. */
export function startWatchdog(afterMs: number, bite: () => void): { pet(): void; stop(): void } {
  let lastMs = performance.now()
  let timer = setTimeout(check, afterMs)
  function check(): void {
    const leftMs = lastMs + afterMs - performance.now()
    if (leftMs <= 0) bite()
    else timer = setTimeout(check, leftMs)
  }
  return {
    pet: () => {
      lastMs = performance.now()
    },
    stop: () => clearTimeout(timer),
  }
}
