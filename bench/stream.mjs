/**
 * From the provider's token to the reader, stored first: N replies at once, 50 tokens/s each, each followed by one
 * reader over server-sent events. Every token is the time at which the provider wrote it.
 */
import { randomUUID } from 'node:crypto'
import { events, figures, guest, ms, send, withMachine } from './support.mjs'

const perSecond = 50
const seconds = 10
/** Not counted: all replies start in this time. */
const warmSeconds = 2

export async function stream(replies = 500) {
  return withMachine(async (machine) => {
    const tokens = perSecond * (seconds + warmSeconds)
    const provider = await machine.provider([{ firehose: { tokens, perSecond, stamp: true } }])
    const { url, cpu } = await machine.server({
      OPENAI_API_KEY: 'none',
      OPENAI_BASE_URL: provider,
      HOLDFAST_CONCURRENCY: '1000',
    })
    const delays = []
    const readers = []
    let counting = false
    for (let n = 0; n < replies; n++) {
      const { cookie, session } = await guest(url)
      let rest = ''
      const stop = await events(url, `/v1/sessions/${session}/events`, cookie, (text) => {
        const now = Date.now()
        const lines = (rest + text).split('\n')
        rest = lines.pop()
        // An outcome repeats the whole text: only chunks are counted.
        for (const line of lines) {
          if (!counting || !line.includes('"type":"chunk"')) continue
          for (const [stamp] of line.matchAll(/\b1[78]\d{11}\b/g)) delays.push(now - Number(stamp))
        }
      })
      readers.push({ cookie, session, stop })
    }
    for (const { cookie, session } of readers) {
      await send(url, 'POST', `/v1/sessions/${session}/messages`, { id: randomUUID(), text: 'go' }, cookie)
    }
    await new Promise((resolve) => setTimeout(resolve, warmSeconds * 1_000))
    counting = true
    const before = await cpu()
    await new Promise((resolve) => setTimeout(resolve, (seconds - warmSeconds) * 1_000))
    const busy = ((await cpu()) - before) / (seconds - warmSeconds)
    counting = false
    const { p50, p99, max, count } = figures(delays)
    for (const { stop } of readers) stop()
    const rate = Math.round(count / (seconds - warmSeconds))
    return [
      `stream, ${replies} replies x ${perSecond} tokens/s to ${replies} readers: ${rate} tokens/s, p50 ${ms(p50)}, p99 ${ms(p99)}, max ${ms(max)}, server ${busy.toFixed(2)} cores`,
    ]
  })
}
