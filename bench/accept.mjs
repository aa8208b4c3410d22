/**
 * Messages accepted per second over HTTP: 64 connections post to 500 sessions as fast as they are answered, beside
 * one that posts alone. The server only accepts (role http), so that nothing but the acceptance is measured.
 */
import { randomUUID } from 'node:crypto'
import { figures, guest, ms, send, withMachine } from './support.mjs'

const seconds = 8
const sessions = 500

export async function accept() {
  return withMachine(async (machine) => {
    const { url, cpu } = await machine.server({ HOLDFAST_ROLES: 'http' })
    const guests = []
    for (let n = 0; n < sessions; n++) guests.push(await guest(url))
    const lines = []
    for (const connections of [1, 64]) {
      await run(url, guests, connections, 1)
      const before = await cpu()
      const { accepted, took } = await run(url, guests, connections, seconds)
      const { p50, p99 } = figures(took)
      const busy = ((await cpu()) - before) / seconds
      lines.push(
        `accept, ${connections} at a time: ${Math.round(accepted / seconds)}/s, p50 ${ms(p50)}, p99 ${ms(p99)}, server ${busy.toFixed(2)} cores`,
      )
    }
    return lines
  })
}

async function run(url, guests, connections, forSeconds) {
  const until = performance.now() + forSeconds * 1_000
  const took = []
  let next = 0
  const one = async () => {
    while (performance.now() < until) {
      const { cookie, session } = guests[next++ % guests.length]
      const began = performance.now()
      const { status, text } = await send(
        url,
        'POST',
        `/v1/sessions/${session}/messages`,
        { id: randomUUID(), text: 'hello' },
        cookie,
      )
      if (status !== 202) throw new Error(`answered ${status}: ${text}`)
      took.push(performance.now() - began)
    }
  }
  await Promise.all(Array.from({ length: connections }, one))
  return { accepted: took.length, took }
}
