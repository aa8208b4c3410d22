/** An app on `holdfast/react`, in StrictMode: one session (`id` in its address), over one kind of connection (`transport`). */
import { type FormEvent, StrictMode, useState } from 'react'
import { createRoot, hydrateRoot } from 'react-dom/client'
import { createClient, type Transport } from '../../../src/client/client.ts'
import {
  HoldfastProvider,
  useActivity,
  useChatSession,
  useChatSessions,
  useConnection,
  usePresence,
  useReadBy,
  useRealtime,
  useSendMessage,
  useUnsent,
} from '../../../src/react/index.ts'
import { EveryHook } from './every-hook.ts'

declare global {
  interface Window {
    /** Types of the events that the page's own handlers were told, and of what else broke. */
    told: string[]
    /** Every text that a message was shown with, by its id. */
    shown: Record<string, string[]>
    /** What a server has rendered of `EveryHook`, to be hydrated. */
    markup?: string
  }
}
window.told = []
window.shown = {}

const query = new URLSearchParams(location.search)
const id = query.get('id') ?? ''
const client = createClient({ transport: (query.get('transport') ?? 'auto') as Transport | 'auto', user: 'ann' })

const textOf = (parts: readonly { type: string; text?: unknown }[]) =>
  parts.flatMap(({ type, text }) => (type === 'text' ? [String(text)] : [])).join('')

function Chat() {
  const { messages, phase, isLive, isBusy, stop, retry } = useChatSession(id)
  const { phase: connection, transport } = useConnection()
  const { unsent } = useUnsent(id)
  const { sessions } = useChatSessions()
  const { send, error } = useSendMessage(id)
  const people = { present: usePresence(id), activity: useActivity(id), readBy: useReadBy(id, messages[0]?.id ?? '') }
  const [text, setText] = useState('')
  useRealtime(id, {
    'message.ai_response': (data: { message: { id: string } }) => window.told.push(`answered ${data.message.id}`),
  })
  for (const message of messages) {
    const said = textOf(message.parts)
    const list = window.shown[message.id] ?? []
    window.shown[message.id] = list
    if (list.at(-1) !== said) list.push(said)
  }
  const submit = (event: FormEvent) => {
    event.preventDefault()
    setText('')
    send(text).catch(() => undefined)
  }
  return (
    <main>
      <p id="state">{JSON.stringify({ phase, isLive, isBusy, connection, transport, unsent: unsent.length })}</p>
      <p id="people">{JSON.stringify(people)}</p>
      <p id="error">{error?.message}</p>
      <p id="sessions">{sessions.map(({ lastPreview }) => lastPreview).join('|')}</p>
      <ol>
        {messages.map(({ id: messageId, role, parts, status, delivery }) => (
          <li key={messageId} data-id={messageId} data-delivery={delivery?.state ?? status}>
            {role}: {textOf(parts)}
          </li>
        ))}
      </ol>
      {isBusy && <p id="dots">…</p>}
      <form onSubmit={submit}>
        <input aria-label="Message" value={text} onChange={(event) => setText(event.currentTarget.value)} />
        <button type="submit">Send</button>
        <button type="button" onClick={() => void stop()}>
          Stop
        </button>
        <button type="button" onClick={() => messages[0] && void retry(messages[0].id)}>
          Retry
        </button>
      </form>
    </main>
  )
}

function App() {
  const [isThere, setThere] = useState(true)
  return (
    <>
      <button type="button" onClick={() => setThere(!isThere)}>
        {isThere ? 'Leave' : 'Come back'}
      </button>
      {isThere && <Chat />}
    </>
  )
}

/** Only when the client knows more than the server did: then it is hard. */
async function hydrate(root: HTMLElement, markup: string) {
  const handle = client.session(id)
  await new Promise<void>((resolve) => {
    handle.subscribe(() => handle.getSnapshot().isLive && resolve())
    client.sessions.subscribe(() => undefined)
  })
  root.innerHTML = markup
  const every = <EveryHook client={client} id={id} />
  hydrateRoot(root, every, { onRecoverableError: (error) => window.told.push(String(error)) })
}

const root = document.getElementById('root')!
if (window.markup !== undefined) await hydrate(root, window.markup)
else {
  createRoot(root).render(
    <StrictMode>
      <HoldfastProvider client={client}>
        <App />
      </HoldfastProvider>
    </StrictMode>,
  )
}
