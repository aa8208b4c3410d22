'use client'

import { Chat as ChatStore, useChat } from '@ai-sdk/react'
import { useState } from 'react'
import { useTryAgain } from './try-again'

export default function Chat(init: ConstructorParameters<typeof ChatStore>[0]) {
  const [input, setInput] = useState('')
  const [chat] = useState(() => new ChatStore(init))
  const helpers = useChat({ chat, resume: true })
  const { messages, sendMessage, status, error } = helpers
  const tryAgain = useTryAgain(helpers)
  return (
    <main>
      {messages.map((message) => (
        <p key={message.id}>
          {message.role === 'user' ? 'User: ' : 'AI: '}
          {message.parts.map((part) => (part.type === 'text' ? part.text : ''))}
        </p>
      ))}
      <form
        onSubmit={(event) => {
          event.preventDefault()
          void sendMessage({ text: input })
          setInput('')
        }}
      >
        <input value={input} placeholder="Say something..." onChange={(event) => setInput(event.currentTarget.value)} />
      </form>
      {status === 'streaming' && (
        <button type="button" onClick={() => void fetch(`/api/chat/${chat.id}/stop`, { method: 'POST' })}>
          Stop
        </button>
      )}
      {error && (
        <button type="button" onClick={() => void tryAgain()}>
          {error.message} Try again
        </button>
      )}
    </main>
  )
}
