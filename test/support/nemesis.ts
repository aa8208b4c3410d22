/**
 * What befalls a network by a seed: connections that break at some byte, are reset, end in one direction, stall and go on, or
 * are refused for a moment. Each comes when so many bytes have passed, so that it hits whatever is under way just then.
 */
import type { Direction, TcpProxy } from './proxy.ts'

type Random = (below: number) => number

export type Nemesis = {
  /** What it has done so far, in words, for who looks for the reason of a failure. */
  done: readonly string[]
  /** Resolves when it has done all that it does. */
  over: Promise<void>
  /** From now on the network is well. */
  heal(): void
}

/** `back`: called a moment after each, as a device hears that it is online. Absent: who was cut finds out by itself. */
export function startNemesis(proxy: TcpProxy, random: Random, faultsMax: number, back?: () => void): Nemesis {
  const done: string[] = []
  let end!: () => void
  const over = new Promise<void>((resolve) => {
    end = resolve
  })
  const timers = new Set<NodeJS.Timeout>()
  let isOver = false
  let bytes = 0
  let dueAt = 250 + random(3_500)

  const after = (ms: number, act: () => void) => {
    const timer = setTimeout(() => {
      timers.delete(timer)
      act()
    }, ms)
    timers.add(timer)
  }
  const direction = (): Direction => (random(3) === 0 ? 'up' : 'down')
  const faults: (() => string)[] = [
    () => {
      const [way, left] = [direction(), 1 + random(900)]
      proxy.cutAfter(way, left)
      return `cut ${left} bytes later, ${way}`
    },
    () => {
      proxy.cutAll()
      return 'reset'
    },
    () => {
      const way = direction()
      proxy.halfClose(way)
      return `half closed, ${way}`
    },
    () => {
      const [way, ms] = [direction(), 10 + random(150)]
      proxy.hang(way)
      after(ms, () => proxy.resume(way))
      return `held for ${ms} ms, ${way}`
    },
    () => {
      const [way, ms] = [direction(), 10 + random(100)]
      proxy.hang(way)
      after(ms, () => {
        // What was held never comes.
        proxy.cutAll()
        proxy.resume(way)
      })
      return `held for ${ms} ms and lost, ${way}`
    },
    () => {
      const [way, ms] = [direction(), 20 + random(100)]
      proxy.trickle(way, 4_000 + random(40_000))
      after(ms, () => proxy.resume(way))
      return `slow for ${ms} ms, ${way}`
    },
    () => {
      const ms = 10 + random(150)
      proxy.refuse()
      proxy.cutAll()
      after(ms, proxy.accept)
      return `away for ${ms} ms`
    },
  ]

  const look = (data: Buffer) => {
    bytes += data.length
    if (isOver || bytes < dueAt || done.length >= faultsMax) return 'pass' as const
    bytes = 0
    dueAt = 250 + random(3_500)
    done.push(faults[random(faults.length)]!())
    if (back !== undefined) after(5 + random(250), back)
    if (done.length === faultsMax) end()
    return 'pass' as const
  }
  const unwatch = proxy.watch({ onUpstream: look, onDownstream: look })

  return {
    done,
    over,
    heal() {
      isOver = true
      unwatch()
      for (const timer of timers) clearTimeout(timer)
      for (const way of ['up', 'down'] as const) {
        proxy.resume(way)
        proxy.cutAfter(way, Number.POSITIVE_INFINITY)
      }
      proxy.accept()
    },
  }
}
