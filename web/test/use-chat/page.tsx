/** An app on `useChat`, unmodified, with a button for each thing that such an app does. Its chat is in its address. */
import { Chat as ChatStore, useChat } from '@ai-sdk/react'
import * as sdk from 'ai'
import {
  type ChatTransport,
  DefaultChatTransport,
  lastAssistantMessageIsCompleteWithToolCalls,
  type UIMessage,
} from 'ai'
import { Fragment, StrictMode, useEffect, useState } from 'react'
import { createRoot } from 'react-dom/client'

declare global {
  interface Window {
    /** Every text that a reply was shown with, by the reply's id. */
    shown: Record<string, string[]>
  }
}
window.shown = {}

const query = new URLSearchParams(location.search)
const id = query.get('id') ?? ''
/** Only 7 has it. */
const { WebSocketChatTransport } = sdk as unknown as {
  WebSocketChatTransport: new (options: { url: string }) => ChatTransport<UIMessage>
}
const settings = {
  id,
  transport: query.has('socket')
    ? new WebSocketChatTransport({ url: '/api/chat/ws' })
    : new DefaultChatTransport({
        api: '/api/chat',
        headers: query.has('sdk') ? { 'x-ai-sdk': query.get('sdk') ?? '' } : {},
      }),
  ...(query.has('auto') ? { sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls } : {}),
}

type Settings = typeof settings & { messages: UIMessage[] }

/** As most apps have it. */
const useHook = (given: Settings) => useChat({ ...given, resume: true })
/** With the chat outside of the hook. */
function useStore(given: Settings) {
  const [chat] = useState(() => new ChatStore(given))
  return useChat({ chat, resume: true })
}
const useIt = query.has('store') ? useStore : useHook

const textOf = ({ parts }: UIMessage) => parts.map((part) => (part.type === 'text' ? part.text : '')).join('')

function Conversation({ history }: { history: UIMessage[] }) {
  const { messages, status, error, sendMessage, regenerate, resumeStream, stop } = useIt({
    ...settings,
    messages: history,
  })
  const [input, setInput] = useState('')
  useEffect(() => {
    for (const message of messages) {
      if (message.role !== 'assistant') continue
      window.shown[message.id] ??= []
      const texts = window.shown[message.id] as string[]
      if (texts.at(-1) !== textOf(message)) texts.push(textOf(message))
    }
  }, [messages])
  const stopOnServer = async () => {
    await fetch(`/api/chat/${id}/stop`, { method: 'POST' })
  }
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
      {error && <p role="alert">{error.message}</p>}
      <form
        onSubmit={(event) => {
          event.preventDefault()
          void sendMessage({ text: input })
          setInput('')
        }}
      >
        <input aria-label="Message" value={input} onChange={(event) => setInput(event.target.value)} />
      </form>
      <button type="button" onClick={() => void stop()}>
        Stop here
      </button>
      <button type="button" onClick={() => void stopOnServer()}>
        Stop
      </button>
      <button type="button" onClick={() => void regenerate()}>
        Try again
      </button>
      <button type="button" onClick={() => void resumeStream()}>
        Resume
      </button>
      <button type="button" onClick={() => void regenerate({ messageId: lastOf('assistant') })}>
        Another
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
/** As `next dev` has it: in development React mounts everything twice. */
const Around = query.has('strict') ? StrictMode : Fragment
createRoot(document.getElementById('root') as HTMLElement).render(
  <Around>
    <App history={JSON.parse(rendered)} />
  </Around>,
)
