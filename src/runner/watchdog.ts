/**
 * Calls `bite` once if it is not petted for `afterMs`. While it is held no time passes: waiting for our own database is
 * not the provider's silence. Petting costs a number, not a timer.
 */
export function startWatchdog(afterMs: number, bite: () => void): { pet(): void; hold(): void; stop(): void } {
  let lastMs = performance.now()
  let held = false
  let timer = setTimeout(check, afterMs)
  function check(): void {
    const leftMs = held ? afterMs : lastMs + afterMs - performance.now()
    if (leftMs <= 0) bite()
    else timer = setTimeout(check, leftMs)
  }
  return {
    pet: () => {
      lastMs = performance.now()
      held = false
    },
    hold: () => {
      held = true
    },
    stop: () => clearTimeout(timer),
  }
}
