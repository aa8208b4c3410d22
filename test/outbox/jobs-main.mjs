/** A process with a job that asks the receiver, as `startServer` starts it: one that a test kills, or stops and lets go on. */
import { createHoldfast } from '../../dist/index.js'

const { DATABASE_URL, RECEIVER_URL } = process.env
const chat = createHoldfast({
  database: DATABASE_URL,
  reply: () => '',
  jobs: {
    sync: {
      async run(n, { id, attempt }) {
        await fetch(RECEIVER_URL, { method: 'POST', body: JSON.stringify({ type: 'job', data: { n, id, attempt } }) })
      },
    },
  },
  leaseMs: 1_000,
  pollMs: 200,
})
process.once('SIGTERM', () => chat.close())
const { url } = await chat.listen(0, '127.0.0.1')
console.log(`Holdfast  ${url}`)
