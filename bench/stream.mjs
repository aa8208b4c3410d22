/**
 * From the provider's token to the reader, stored first: N replies at once, 50 tokens/s each, each followed by one
 * reader over server-sent events. Every token is the time at which the provider wrote it.
 */
import { randomUUID } from 'node:crypto'
import { cpuOfMachine, events, figures, guest, meters, ms, send, withMachine } from './support.mjs'

const perSecond = 50
/** Counted, after all replies have begun and settled. */
const seconds = 20
const settleSeconds = 6
/** The replies go on for so much longer than that, so that none ends while it counts. */
const startSeconds = 10
const sendsAtOnce = 20

/** `processes`: servers on one database, each with its share of the readers; who claims a turn writes its reply. */
export async function stream(replies = 500, processes = 1) {
  return withMachine(async (machine) => {
    const tokens = perSecond * (startSeconds + settleSeconds + seconds)
    const provider = await machine.provider([{ firehose: { tokens, perSecond, stamp: true } }])
    const env = { OPENAI_API_KEY: 'none', OPENAI_BASE_URL: provider.url, HOLDFAST_CONCURRENCY: '1000' }
    const servers = [await machine.server(env)]
    while (servers.length < processes) {
      servers.push(await machine.server({ ...env, DATABASE_URL: await machine.databaseUrl() }))
    }
    const [first] = servers
    const cores = meters({
      ...Object.fromEntries(servers.map(({ cpu }, at) => [processes === 1 ? 'server' : `server ${at + 1}`, cpu])),
      postgres: first.postgresCpu,
      provider: provider.cpu,
      machine: cpuOfMachine,
      readers: async () => process.cpuUsage().user / 1e6 + process.cpuUsage().system / 1e6,
    })
    const delays = []
    const readers = []
    let counting = false
    for (let n = 0; n < replies; n++) {
      const { url } = servers[n % processes]
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
      readers.push({ url, cookie, session, stop })
    }
    const begunMs = performance.now()
    const unsent = [...readers]
    const sendSome = async () => {
      for (let next = unsent.pop(); next; next = unsent.pop()) {
        const { url, cookie, session } = next
        await send(url, 'POST', `/v1/sessions/${session}/messages`, { id: randomUUID(), text: 'go' }, cookie)
      }
    }
    await Promise.all(Array.from({ length: sendsAtOnce }, sendSome))
    if (performance.now() - begunMs > startSeconds * 1_000) throw new Error('the replies did not begin in time')
    await new Promise((resolve) => setTimeout(resolve, settleSeconds * 1_000))
    counting = true
    const busy = await cores()
    await new Promise((resolve) => setTimeout(resolve, seconds * 1_000))
    counting = false
    const used = await busy()
    const { p50, p99, max, count } = figures(delays)
    for (const { stop } of readers) stop()
    const rate = Math.round(count / seconds)
    return [
      `stream, ${replies} replies x ${perSecond} tokens/s to ${replies} readers, ${processes} ${processes === 1 ? 'process' : 'processes'}: ${rate} tokens/s, p50 ${ms(p50)}, p99 ${ms(p99)}, max ${ms(max)}; cores: ${used}`,
    ]
  })
}
