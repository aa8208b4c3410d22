/** An app's module, killed while it writes: what it says names its message and its attempt, and the first one never ends. */
import { createHoldfast } from '../../../dist/index.js'

export const chat = createHoldfast({
  database: process.env.DATABASE_URL,
  tokens: { secret: process.env.JWT_SECRET },
  leaseMs: 1_000,
  pollMs: 200,
  drainMs: 0,
  async *reply({ message, attempt, signal }) {
    for (const word of [`[${message.parts[0].text}#${attempt}] `, 'half ', 'of it']) yield word
    if (attempt === 1) await new Promise((resolve) => signal.addEventListener('abort', resolve))
    yield ' and the rest'
  },
})
