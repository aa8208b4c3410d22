/** From `kill -9` of the process that writes a reply to the first chunk of the next attempt, written by another. */
import { randomUUID } from 'node:crypto'
import { events, figures, guest, ms, send, withMachine } from './support.mjs'

const times = 5

export async function takeover() {
  const took = []
  for (let n = 0; n < times; n++) took.push(await once())
  const { p50, max } = figures(took)
  return [`takeover after kill -9, lease 5 s: p50 ${ms(p50)}, worst of ${times} ${ms(max)}`]
}

function once() {
  return withMachine(async (machine) => {
    const { url: provider } = await machine.provider([{ forever: 'word ', everyMs: 20 }])
    const env = { OPENAI_API_KEY: 'none', OPENAI_BASE_URL: provider }
    const first = await machine.server(env)
    const { cookie, session } = await guest(first.url)
    await send(first.url, 'POST', `/v1/sessions/${session}/messages`, { id: randomUUID(), text: 'go' }, cookie)
    await chunkOf(first.url, session, cookie, 1)
    first.child.kill('SIGKILL')
    const began = performance.now()
    // The embedded database has one owner: the next process starts when the first is gone, as under a supervisor.
    const second = await machine.server(env)
    await chunkOf(second.url, session, cookie, 2)
    return performance.now() - began
  })
}

function chunkOf(url, session, cookie, attempt) {
  return new Promise((resolve, reject) => {
    let stop
    events(url, `/v1/sessions/${session}/events`, cookie, (text) => {
      if (!text.includes(`"type":"chunk"`) || !text.includes(`"attempt":${attempt},"index"`)) return
      stop?.()
      resolve()
    }).then((end) => {
      stop = end
    }, reject)
  })
}
