/** Gates by name, at which replies wait for the test, and the test for replies. */
export type Gates = {
  open(name: string): void
  reached(name: string, ask?: { times?: number; withinMs?: number }): Promise<void>
  /** Resolves when the gate is open, or the signal is aborted. */
  pass(name: string, signal: AbortSignal): Promise<void>
}

type Gate = { isOpen: boolean; reached: number; changed: Set<() => void> }

const within = 20_000

/** `asked`: how often the reply was asked for, for the error of who waits in vain. */
export function createGates(names: readonly string[], asked: () => number): Gates {
  const gates = new Map<string, Gate>(names.map((name) => [name, { isOpen: false, reached: 0, changed: new Set() }]))

  function gateOf(name: string): Gate {
    const gate = gates.get(name)
    if (gate) return gate
    const known = gates.size === 0 ? 'There is none.' : `There are ${[...gates.keys()].join(', ')}.`
    throw new Error(`No script waits for "${name}". ${known}`)
  }

  function change(gate: Gate): void {
    for (const look of [...gate.changed]) look()
  }

  return {
    open(name) {
      const gate = gateOf(name)
      gate.isOpen = true
      change(gate)
    },
    async reached(name, { times = 1, withinMs = within } = {}) {
      const gate = gateOf(name)
      await new Promise<void>((resolve, reject) => {
        const look = () => {
          if (gate.reached < times) return
          clearTimeout(timer)
          gate.changed.delete(look)
          resolve()
        }
        const timer = setTimeout(() => {
          gate.changed.delete(look)
          reject(
            new Error(
              `reached: expected ${times} attempts at the gate "${name}" within ${withinMs} ms, and ${gate.reached} came. The reply was asked for ${asked()} times.`,
            ),
          )
        }, withinMs)
        gate.changed.add(look)
        look()
      })
    },
    async pass(name, signal) {
      const gate = gateOf(name)
      gate.reached++
      change(gate)
      await new Promise<void>((resolve) => {
        const look = () => {
          if (!gate.isOpen && !signal.aborted) return
          gate.changed.delete(look)
          signal.removeEventListener('abort', look)
          resolve()
        }
        gate.changed.add(look)
        signal.addEventListener('abort', look)
        look()
      })
    },
  }
}
