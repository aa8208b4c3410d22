/** A plain page to try the server with: send, watch, reload. No framework, no build; the web app replaces it. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pathOf } from './path.ts'

export function servePage(incoming: IncomingMessage, outgoing: ServerResponse): boolean {
  if (incoming.method !== 'GET' || pathOf(incoming) !== '/') return false
  outgoing.writeHead(200, {
    'content-type': 'text/html; charset=utf-8',
    'cache-control': 'no-store',
    'content-security-policy':
      "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
  })
  outgoing.end(page)
  return true
}

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Holdfast</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
  body { margin: 0 auto; max-width: 44rem; padding: 1rem; display: flex; flex-direction: column; min-height: 100vh; box-sizing: border-box }
  header { display: flex; gap: 1rem; align-items: baseline; justify-content: space-between }
  h1 { font-size: 1.1rem; margin: 0 } #state { font-size: .85rem; opacity: .7 }
  ol { list-style: none; padding: 0; margin: 1rem 0; flex: 1; display: flex; flex-direction: column; gap: .75rem }
  li { padding: .6rem .9rem; border-radius: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; max-width: 85% }
  li.user { align-self: flex-end; background: #2563eb; color: #fff } li.assistant { background: #8882; }
  li small { display: block; opacity: .65; font-size: .75rem } li.failed { outline: 1px solid #dc2626 }
  form { display: flex; gap: .5rem; position: sticky; bottom: 0; padding: .5rem 0; background: Canvas }
  textarea { flex: 1; font: inherit; padding: .6rem; border-radius: .6rem; resize: none } button { font: inherit; padding: 0 1rem; border-radius: .6rem }
</style>
<header><h1>Holdfast</h1><span id="state" role="status">connecting</span><button id="fresh" type="button">New session</button></header>
<ol id="list" aria-live="polite"></ol>
<form id="form"><textarea id="text" rows="1" aria-label="Message" placeholder="Write a message. Then reload, or kill the server: the reply comes." autofocus></textarea><button>Send</button></form>
<script>
const $ = (id) => document.getElementById(id)
const messages = new Map()
let session = localStorage.getItem('holdfast-session'), source

async function call(method, path, body) {
  const response = await fetch(path, { method, headers: body ? { 'content-type': 'application/json' } : {}, body: body && JSON.stringify(body) })
  const answer = await response.json()
  if (!response.ok) throw Object.assign(new Error(answer.detail), answer)
  return answer
}
const textOf = (message) => message.parts.filter((part) => part.type === 'text').map((part) => part.text).join('\\n\\n')

function show(message) {
  let view = messages.get(message.id)
  if (!view) {
    const item = document.createElement('li'), text = document.createElement('span'), note = document.createElement('small')
    item.append(text, note)
    item.className = message.role
    $('list').append(item)
    messages.set(message.id, (view = { item, text, note }))
  }
  view.text.textContent = textOf(message)
  mark(message.id, message.status)
  return view
}
function mark(id, status, more) {
  const view = messages.get(id)
  if (!view) return
  view.item.classList.toggle('failed', status === 'failed')
  view.note.textContent = [status === 'complete' ? '' : status === 'pending' ? '…' : status, more].filter(Boolean).join(': ')
}
function chunks(id, list) {
  const view = messages.get(id)
  if (!view) return
  for (const chunk of list) if (chunk.type === 'text-delta') view.text.textContent += chunk.delta
  mark(id, 'streaming')
}
const on = {
  'message.created': ({ message, reply }) => { show(message); show({ id: reply.id, role: 'assistant', parts: [], status: reply.status }) },
  'attempt.started': ({ replyId, base, attempt }) => show({ id: replyId, role: 'assistant', parts: base, status: attempt > 1 ? 'attempt ' + attempt : 'pending' }),
  'attempt.ended': ({ code, retryAt }) => { $('state').textContent = code ? code + (retryAt ? ', again at ' + new Date(retryAt).toLocaleTimeString() : '') : '' },
  'message.ai_response': ({ message }) => show(message),
  'message.stopped': ({ message }) => show(message),
  'message.error': ({ message, error }) => { show(message); mark(message.id, 'failed', error) },
  chunk: (frame) => chunks(frame.messageId, frame.chunks),
  'caught-up': () => { $('state').textContent = 'live' },
  reset: () => { source.close(); open() },
}

async function open() {
  try {
    if (!session) {
      session = (await call('POST', '/v1/sessions', {})).id
      localStorage.setItem('holdfast-session', session)
    }
    const snapshot = await call('GET', '/v1/sessions/' + session)
    $('list').replaceChildren()
    messages.clear()
    for (const message of snapshot.messages) {
      show(message)
      if (message.error) mark(message.id, 'failed', message.error.error)
    }
    for (const reply of snapshot.open) chunks(reply.replyId, reply.chunks)
    source = new EventSource('/v1/sessions/' + session + '/events?cursor=' + encodeURIComponent(snapshot.cursor))
    source.onmessage = ({ data }) => { const frame = JSON.parse(data); on[frame.type]?.(frame.data ?? frame) }
    source.onerror = () => { $('state').textContent = 'reconnecting'; if (source.readyState === 2) setTimeout(open, 1000) }
  } catch (error) {
    if (error.code === 'not_found' || error.code === 'unauthorized') { session = null; localStorage.removeItem('holdfast-session') }
    $('state').textContent = 'not reachable, trying again'
    setTimeout(open, 1000)
  }
}
async function send(id, text) {
  try {
    await call('POST', '/v1/sessions/' + session + '/messages', { id, text })
  } catch (error) {
    // The same id again: whether or not the first arrived, there is one message.
    if (error.retryable !== false) return setTimeout(() => send(id, text), 1000)
    $('state').textContent = error.message
    $('text').value ||= text
  }
}
$('form').onsubmit = (event) => {
  event.preventDefault()
  const text = $('text').value.trim()
  if (!text || !session) return
  $('text').value = ''
  send(crypto.randomUUID(), text)
}
$('text').onkeydown = (event) => { if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); $('form').requestSubmit() } }
$('fresh').onclick = () => { source?.close(); session = null; localStorage.removeItem('holdfast-session'); open() }
open()
</script>
</html>
`
