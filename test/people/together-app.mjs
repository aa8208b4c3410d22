/** The server of together.test.ts, as `testProcess` loads it. What it says tells which process says it. */
import { setTimeout as pause } from 'node:timers/promises'
import { expoPush } from '../../dist/adapters/expo.js'
import { createHoldfast } from '../../dist/index.js'

const { DATABASE_URL, TOGETHER_DATABASE, TOGETHER_SECRET, TOGETHER_KEY, TOGETHER_NAME, EXPO_URL } = process.env
/** Each user's messages go to everybody and to themselves alone by turns. */
const sent = new Map()

export const chat = createHoldfast({
  database: TOGETHER_DATABASE ?? DATABASE_URL,
  tokens: { secret: TOGETHER_SECRET },
  serverKey: TOGETHER_KEY,
  push: { expo: expoPush({ baseUrl: EXPO_URL }) },
  // Longer than the test: it says itself when the time has come.
  pushGraceMs: 600_000,
  // Of three lanes that are busy each process writes in one.
  concurrency: 1,
  leaseMs: 1_000,
  pollMs: 200,
  drainMs: 0,
  log: () => undefined,
  limits: { sendsPerMinute: 0 },
  lane({ user }) {
    const count = (sent.get(user.id) ?? 0) + 1
    sent.set(user.id, count)
    return count % 2 === 0 ? 'private' : 'main'
  },
  async *reply({ attempt }) {
    for (let at = 0; at < 25; at++) {
      yield `${TOGETHER_NAME} ${attempt}.${at} `
      await pause(10)
    }
  },
})
