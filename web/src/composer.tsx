import { type FormEvent, type KeyboardEvent, type Ref, useEffect, useImperativeHandle, useRef, useState } from 'react'
import { AlertIcon, SendIcon, StopIcon } from './icons.tsx'
import { recall, remember } from './storage.ts'

export type ComposerHandle = { giveBack(text: string): void }
type ComposerProps = {
  ref: Ref<ComposerHandle>
  draftKey: string
  /** Why the last message was not taken. */
  notice: string | null
  isRunning: boolean
  onSend(text: string): void
  onStop(): void
}

/** What is written stays, per session, until the page has taken charge of sending it. */
export function Composer({ ref, draftKey, notice, isRunning, onSend, onStop }: ComposerProps) {
  const [text, setText] = useState(() => recall(draftKey) ?? '')
  const area = useRef<HTMLTextAreaElement>(null)

  // Where there is a keyboard already. On a phone it would slide in over the chat that was just opened.
  useEffect(() => {
    if (matchMedia('(hover: hover)').matches) area.current?.focus()
  }, [])
  useEffect(() => {
    const { current } = area
    if (!current) return
    current.style.height = 'auto'
    current.style.height = `${current.scrollHeight}px`
    remember(draftKey, text === '' ? null : text)
  }, [text, draftKey])

  useImperativeHandle(ref, () => ({
    giveBack: (given) => setText((now) => (now === '' ? given : `${given}\n\n${now}`)),
  }))

  const send = (event?: FormEvent) => {
    event?.preventDefault()
    if (text.trim() === '') return
    onSend(text)
    remember(draftKey, null)
    setText('')
  }
  const onKeyDown = (event: KeyboardEvent) => {
    // While an input method composes a character, Enter chooses it.
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return
    event.preventDefault()
    send()
  }
  return (
    <form className="composer" onSubmit={send}>
      {notice !== null && (
        <p className="failure mb-2" role="alert">
          <AlertIcon /> <span>{notice}</span>
        </p>
      )}
      <div className="composer-box">
        <textarea
          ref={area}
          rows={1}
          dir="auto"
          value={text}
          placeholder="Write a message"
          aria-label="Message"
          enterKeyHint="send"
          onChange={(event) => setText(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        {isRunning && (
          <button type="button" className="stop-button" onClick={onStop}>
            <StopIcon /> Stop
          </button>
        )}
        <button type="submit" className="send-button" aria-label="Send" disabled={text.trim() === ''}>
          <SendIcon />
        </button>
      </div>
    </form>
  )
}
