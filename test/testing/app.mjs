/** An app's module, as `testProcess` loads it. Its reply knows how many attempts its own memory has seen. */
import { createHoldfast } from '../../dist/index.js'

let attempts = 0

export const chat = createHoldfast({
  database: process.env.DATABASE_URL,
  leaseMs: 1_000,
  pollMs: 200,
  drainMs: 0,
  async *reply({ attempt, signal }) {
    attempts++
    yield `attempt ${attempt} of this turn, ${attempts} of this process`
    const ended = new Promise((resolve) => signal.addEventListener('abort', resolve))
    if (attempt === 1) await ended
  },
})
