/**
 * What an app's own server does around Holdfast in the tests of `useChat`: sends the built pages with the chat's history
 * in them. Plain JavaScript, so that a test and the child process that is killed (site-main.mjs) use the same one.
 */
import { readFile } from 'node:fs/promises'
import { extname, join } from 'node:path'

const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8' }

/**
 * `dirs` are the built pages by their first path segment: `/6/?id=…` is `dirs[6]`, with the history of that chat.
 *
 * @param {Record<string, string>} dirs
 * @param {() => { fetch(request: Request): Promise<Response> }} chat
 * @returns {(incoming: import('node:http').IncomingMessage, outgoing: import('node:http').ServerResponse) => boolean}
 */
export function pages(dirs, chat) {
  return (incoming, outgoing) => {
    const { pathname, searchParams } = new URL(incoming.url ?? '/', 'http://localhost')
    const [, first = '', ...rest] = pathname.split('/')
    const dir = dirs[first]
    if (pathname !== '/history' && dir === undefined) return false
    const answer = async () => {
      if (dir !== undefined && rest.join('/') !== '') return await readFile(join(dir, ...rest))
      const history = JSON.stringify(await historyOf(chat(), searchParams.get('id') ?? ''))
      if (dir === undefined) return history
      const page = await readFile(join(dir, 'index.html'), 'utf8')
      return page.replace('>[]<', () => `>${history.replaceAll('<', '\\u003c')}<`)
    }
    const type = types[extname(pathname) || '.html'] ?? 'text/plain'
    answer().then(
      (body) => outgoing.writeHead(200, { 'content-type': type, 'cache-control': 'no-cache' }).end(body),
      () => outgoing.writeHead(404).end(),
    )
    return true
  }
}

/**
 * What a page passes to `useChat`: all but the replies that are being written, which the stream tells from their start.
 *
 * @param {{ fetch(request: Request): Promise<Response> }} chat
 * @param {string} id
 */
async function historyOf(chat, id) {
  const response = await chat.fetch(new Request(`http://localhost/v1/sessions/${id}`))
  if (!response.ok) return []
  const { messages } = await response.json()
  return messages.filter(({ status }) => status !== 'pending' && status !== 'streaming')
}
