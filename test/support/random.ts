/** Random numbers from a seed, so that a failing case comes again. */

/** Whole numbers from 0 to 2³² − 1 (mulberry32): small, and the same everywhere. */
export function numbersOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
}

/** Whole numbers from 0 to `below` − 1. */
export function seeded(seed: number): (below: number) => number {
  const next = numbersOf(seed)
  return (below) => next() % below
}
