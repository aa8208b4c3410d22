/** A process that replies and publishes, as `startServer` starts it: one that a test stops and lets go on. */
import { setTimeout as pause } from 'node:timers/promises'
import { ably } from '../../dist/ably/ably.js'
import { createHoldfast } from '../../dist/index.js'

const { DATABASE_URL, ABLY_KEY, ABLY_URL } = process.env
const chat = createHoldfast({
  database: DATABASE_URL,
  async *reply({ signal }) {
    for (let at = 0; !signal.aborted; at++) {
      yield `first ${at} `
      await pause(10)
    }
  },
  ably: ably({ key: ABLY_KEY, endpoint: ABLY_URL }),
  leaseMs: 1_000,
  pollMs: 200,
})
const { url } = await chat.listen(0, '127.0.0.1')
console.log(`Holdfast  ${url}`)
