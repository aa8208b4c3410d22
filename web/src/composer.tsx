import type { FilePart, WhenBusy } from 'holdfast/client'
import {
  type ClipboardEvent,
  type FormEvent,
  type KeyboardEvent,
  type Ref,
  useCallback,
  useEffect,
  useImperativeHandle,
  useLayoutEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from 'react'
import { AttachmentList, obstacleOf } from './attachment-list.tsx'
import { attachmentsOf, subscribeAttachments, taken } from './attachments.ts'
import { behind, composerOf } from './drafts.ts'
import { pastedFiles } from './dropping.ts'
import { useFit } from './editor.tsx'
import { AlertIcon, BoltIcon, ClipIcon, SendIcon, SteerIcon, StopIcon } from './icons.tsx'
import { recall, remember } from './storage.ts'

export type ComposerHandle = {
  /** Puts a text after what is written there. */
  giveBack(text: string): void
  focus(): void
}
type ComposerProps = {
  ref: Ref<ComposerHandle>
  sessionId: string
  draftKey: string
  /** Why the last message was not taken, or not stopped. */
  notice: string | null
  isRunning: boolean
  /** What runs waits for people. */
  isAsking: boolean
  isStopping: boolean
  /** Something was put behind what is written. */
  onGivenBack(): void
  onFiles(files: File[]): void
  onSend(text: string, whenBusy: WhenBusy, files: FilePart[]): void
  onStop(): void
  /** What is written has changed: whether there is anything. */
  onTyping(isWriting: boolean): void
}

/** What is written stays, per session, until the page has taken charge of sending it. */
export function Composer({ ref, sessionId, draftKey, notice, isRunning, isAsking, isStopping, ...on }: ComposerProps) {
  const { onGivenBack, onFiles, onSend, onStop, onTyping } = on
  const [text, setText] = useState(() => recall(draftKey) ?? '')
  const area = useRef<HTMLTextAreaElement>(null)
  const attachments = useSyncExternalStore(subscribeAttachments, () => attachmentsOf(sessionId))
  const chooser = useRef<HTMLInputElement>(null)
  const obstacle = obstacleOf(attachments)
  const isEmpty = text.trim() === '' && attachments.length === 0

  // Where there is a keyboard already. On a phone it would slide in over the chat that was just opened.
  useEffect(() => {
    if (matchMedia('(hover: hover)').matches) area.current?.focus()
  }, [])
  useFit(area, text)
  useEffect(() => remember(draftKey, text === '' ? null : text), [text, draftKey])
  // The draft of a new chat that got its session is that session's from now on.
  const draftKeyBefore = useRef(draftKey)
  useEffect(() => {
    if (draftKeyBefore.current !== draftKey) remember(draftKeyBefore.current, null)
    draftKeyBefore.current = draftKey
  }, [draftKey])

  const take = useCallback(
    (given: string) => {
      const next = behind(area.current?.value ?? '', given)
      // At once: whoever gives it back forgets it next.
      remember(draftKey, next)
      setText(next)
      onGivenBack()
    },
    [draftKey, onGivenBack],
  )
  useLayoutEffect(() => composerOf(draftKey, take), [draftKey, take])
  useImperativeHandle(ref, () => ({ giveBack: take, focus: () => area.current?.focus() }))

  const send = (whenBusy: WhenBusy) => {
    area.current?.focus()
    if (isEmpty || obstacle !== null) return
    onSend(text, whenBusy, taken(sessionId))
    remember(draftKey, null)
    setText('')
  }
  const onSubmit = (event: FormEvent) => {
    event.preventDefault()
    send('queue')
  }
  const onKeyDown = (event: KeyboardEvent) => {
    // While an input method composes a character, Enter chooses it.
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return
    event.preventDefault()
    send(isRunning && (event.ctrlKey || event.metaKey) ? 'interrupt' : 'queue')
  }
  const onPaste = (event: ClipboardEvent) => {
    const files = pastedFiles(event.clipboardData)
    if (files.length === 0) return
    event.preventDefault()
    onFiles(files)
  }
  return (
    <form className="composer" onSubmit={onSubmit}>
      {notice !== null && (
        <p className="failure mb-2" role="alert">
          <AlertIcon /> <span>{notice}</span>
        </p>
      )}
      {isRunning && !isEmpty && (
        <div className="busy-choice">
          <span id="busy-choice" className="flex-auto">
            {isAsking ? 'Waits until the question is answered.' : 'Waits for the reply.'}
          </span>
          <button
            type="button"
            className="text-button"
            title="Handed to the reply that is being written, at its next step. If it ends first, this has its own."
            onClick={() => send('steer')}
          >
            <SteerIcon /> Add to reply
          </button>
          <button
            type="button"
            className="text-button"
            title="Stops the reply that is being written (Ctrl+Enter)"
            onClick={() => send('interrupt')}
          >
            <BoltIcon /> Send now
          </button>
        </div>
      )}
      <p id="obstacle" className="obstacle" role="status">
        {obstacle}
      </p>
      <div className="composer-box">
        <AttachmentList sessionId={sessionId} attachments={attachments} field={area} />
        <input
          ref={chooser}
          type="file"
          multiple
          hidden
          onChange={({ currentTarget }) => {
            onFiles([...(currentTarget.files ?? [])])
            // The same one may be chosen again.
            currentTarget.value = ''
            area.current?.focus()
          }}
        />
        <button
          type="button"
          className="attach-button"
          aria-label="Attach files"
          title="Attach files"
          onClick={() => chooser.current?.click()}
        >
          <ClipIcon />
        </button>
        <textarea
          ref={area}
          rows={1}
          dir="auto"
          value={text}
          placeholder="Write a message"
          aria-label="Message"
          enterKeyHint="send"
          onChange={(event) => {
            setText(event.currentTarget.value)
            onTyping(event.currentTarget.value.trim() !== '')
          }}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
        />
        {isRunning && (
          <button
            type="button"
            className="stop-button"
            title="Escape"
            aria-keyshortcuts="Escape"
            aria-disabled={isStopping}
            onClick={onStop}
          >
            <StopIcon /> Stop
          </button>
        )}
        <button
          type="submit"
          className="send-button"
          aria-label={isRunning ? 'Queue' : 'Send'}
          aria-describedby={obstacle !== null ? 'obstacle' : isRunning && !isEmpty ? 'busy-choice' : undefined}
          aria-disabled={obstacle !== null}
          disabled={isEmpty}
        >
          <SendIcon />
        </button>
      </div>
    </form>
  )
}
