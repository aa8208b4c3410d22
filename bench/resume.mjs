/** A reader that comes back to a running reply, 100 KB behind: until it has all of it. */
import { randomUUID } from 'node:crypto'
import { events, figures, guest, ms, send, withMachine } from './support.mjs'

const bytes = 100 * 1024
const times = 20

export async function resume() {
  return withMachine(async (machine) => {
    const piece = `${'word '.repeat(20)}\n`
    const steps = [
      ...Array.from({ length: Math.ceil(bytes / piece.length) }, () => [{ text: piece }, { pauseMs: 1 }]).flat(),
      { hang: true },
    ]
    const { url: provider } = await machine.provider(steps)
    const { url } = await machine.server({ OPENAI_API_KEY: 'none', OPENAI_BASE_URL: provider })
    const { cookie, session } = await guest(url)
    const path = `/v1/sessions/${session}/events`
    const { cursor } = (
      await send(url, 'POST', `/v1/sessions/${session}/messages`, { id: randomUUID(), text: 'go' }, cookie)
    ).json()
    await received(url, path, cookie, cursor)
    const took = []
    for (let n = 0; n < times; n++) {
      const began = performance.now()
      await received(url, path, cookie, cursor)
      took.push(performance.now() - began)
    }
    const { p50, max } = figures(took)
    return [`resume of a reply ${bytes / 1024} KB behind: p50 ${ms(p50)}, worst of ${times} ${ms(max)}`]
  })
}

/** Resolves when so many bytes of text have come. */
function received(url, path, cookie, cursor) {
  return new Promise((resolve, reject) => {
    let got = 0
    let stop
    events(url, `${path}?cursor=${cursor}`, cookie, (text) => {
      got += text.length
      if (got < bytes) return
      stop?.()
      resolve()
    }).then((end) => {
      stop = end
      if (got >= bytes) end()
    }, reject)
  })
}
