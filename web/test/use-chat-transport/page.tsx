/**
 * An app on `useChat`, unmodified, with `holdfastTransport` as docs/ai-sdk.md has it. In its address: the chat (`id`),
 * the major of the SDK that it says (`sdk`), and whether it follows the session (`follow`) or loads and resumes.
 */
import { useChat } from '@ai-sdk/react'
import type { UIMessage } from 'ai'
import { useEffect, useState } from 'react'
import { createRoot } from 'react-dom/client'
import { holdfastTransport, type WhenBusy } from '../../../src/ai-sdk/transport.ts'

declare global {
  interface Window {
    /** Every text that a reply was shown with, by the reply's id. */
    shown: Record<string, string[]>
    /** Every error that the page showed. */
    complaints: string[]
  }
}
window.shown = {}
window.complaints = []

const query = new URLSearchParams(location.search)
const id = query.get('id') ?? ''
const follows = query.has('follow')
let say: (isReconnecting: boolean) => void = () => undefined
const transport = holdfastTransport({
  ...(query.get('sdk') === '7' ? { sdk: 7 } : {}),
  onReconnecting: (isReconnecting) => say(isReconnecting),
})

const textOf = ({ parts }: UIMessage) => parts.map((part) => (part.type === 'text' ? part.text : '')).join('')

function Conversation({ history }: { history: UIMessage[] }) {
  const loaded = follows ? {} : { messages: history, resume: true }
  const { messages, setMessages, status, error, sendMessage, regenerate, resumeStream, stop } = useChat({
    id,
    transport,
    ...loaded,
  })
  const [input, setInput] = useState('')
  const [whenBusy, setWhenBusy] = useState<WhenBusy>('queue')
  const [isReconnecting, setReconnecting] = useState(false)
  const [isListening, setListening] = useState(!follows)
  say = setReconnecting
  // biome-ignore lint/correctness/useExhaustiveDependencies: they belong to the chat of this id
  useEffect(() => {
    if (!follows) return
    return transport.follow(id, (told, isRunning) => {
      setMessages(told)
      setListening(true)
      if (isRunning) void resumeStream()
    })
  }, [id])
  useEffect(() => {
    for (const message of messages) {
      if (message.role !== 'assistant') continue
      window.shown[message.id] ??= []
      const texts = window.shown[message.id] as string[]
      if (texts.at(-1) !== textOf(message)) texts.push(textOf(message))
    }
  }, [messages])
  useEffect(() => {
    if (error) window.complaints.push(error.message)
  }, [error])
  const lastOf = (role: string) => messages.findLast((message) => message.role === role)?.id
  return (
    <>
      <ol>
        {messages.map((message) => (
          <li key={message.id} data-id={message.id} data-role={message.role}>
            {textOf(message)}
          </li>
        ))}
      </ol>
      <p role="status">{status}</p>
      {isListening && <p>listening</p>}
      {isReconnecting && <p>reconnecting</p>}
      {error && <p role="alert">{error.message}</p>}
      <form
        onSubmit={(event) => {
          event.preventDefault()
          void sendMessage({ text: input }, { body: { whenBusy } })
          setInput('')
        }}
      >
        <input aria-label="Message" value={input} onChange={(event) => setInput(event.target.value)} />
        <select
          aria-label="While busy"
          value={whenBusy}
          onChange={(event) => setWhenBusy(event.target.value as WhenBusy)}
        >
          {['queue', 'steer', 'interrupt', 'reject'].map((each) => (
            <option key={each}>{each}</option>
          ))}
        </select>
      </form>
      <button type="button" onClick={() => void stop()}>
        Stop here
      </button>
      <button type="button" onClick={() => void transport.stop(id)}>
        Stop
      </button>
      <button type="button" onClick={() => void regenerate()}>
        Try again
      </button>
      <button type="button" onClick={() => void resumeStream()}>
        Resume
      </button>
      <button
        type="button"
        onClick={() => {
          void sendMessage({ text: input, messageId: lastOf('user') })
          setInput('')
        }}
      >
        Edit
      </button>
    </>
  )
}

/** Another page of the same app, and back. */
function App({ history }: { history: UIMessage[] }) {
  const [given, setGiven] = useState<UIMessage[] | null>(history)
  const comeBack = async () => setGiven((await (await fetch(`/history?id=${id}`)).json()) as UIMessage[])
  if (given === null)
    return (
      <button type="button" onClick={() => void comeBack()}>
        Come back
      </button>
    )
  return (
    <>
      <Conversation history={given} />
      <button type="button" onClick={() => setGiven(null)}>
        Leave
      </button>
    </>
  )
}

const rendered = document.getElementById('history')?.textContent ?? '[]'
createRoot(document.getElementById('root') as HTMLElement).render(<App history={JSON.parse(rendered)} />)
