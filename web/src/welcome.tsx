/** What stands where no messages are. */
import { useEffect, useRef } from 'react'
import { CopyButton } from './code-block.tsx'
import { downMs } from './connection.tsx'
import { type DemoInfo, isDemoModel } from './demo.ts'
import { Mark, PlusIcon } from './icons.tsx'
import { useIsLate } from './times.ts'

type Suggestion = { text: string; note?: string }

const demoSuggestions: Suggestion[] = [
  { text: 'long', note: 'Headings, code and tables' },
  { text: 'slow', note: 'A minute, to reload or kill the server in' },
  { text: 'fail once', note: 'An attempt that fails, and the one after it' },
  { text: 'roll the dice', note: 'A tool that runs once, whatever dies' },
  { text: 'send an email', note: 'A tool that asks you first (it only pretends)' },
  { text: 'What happens to my message if the server crashes now?' },
]
const modelSuggestions: Suggestion[] = [
  { text: 'Tell me a long story about a lighthouse keeper.' },
  { text: 'Explain write-ahead logging, with an example in code.' },
  { text: 'Compare three ways to make coffee in a table.' },
  { text: 'What is a holdfast?' },
]

export function Welcome({ demo, onSend }: { demo: DemoInfo | null; onSend(text: string): void }) {
  const suggestions = demo && isDemoModel(demo) ? demoSuggestions : modelSuggestions
  return (
    <div className="welcome">
      <div className="column">
        <Mark />
        <h2 className="mt-4 text-2xl font-semibold tracking-tight text-balance">
          Say something. You are free to leave.
        </h2>
        <p className="mt-2 max-w-[34rem] text-pretty text-mute">
          Your message is stored before it is acknowledged, and each word of the reply before you see it. Reload, go
          offline, come back tomorrow: it will be here.
        </p>
        <ul className="suggestions">
          {suggestions.map(({ text, note }) => (
            <li key={text}>
              <button type="button" className="suggestion" onClick={() => onSend(text)}>
                <span className="font-medium">{text}</span>
                {note && <span className="text-[0.8125rem] text-mute">{note}</span>}
              </button>
            </li>
          ))}
        </ul>
      </div>
    </div>
  )
}

export const Missing = ({ hasChats, onNew }: { hasChats: boolean; onNew(): void }) => (
  <div className="welcome">
    <div className="column">
      <h2 className="text-xl font-semibold">This chat is not here.</h2>
      <p className="mt-2 text-mute">
        It was deleted, or it belongs to somebody else.{hasChats && ' Your other chats are in the list.'}
      </p>
      <button type="button" className="small-button mt-4" onClick={onNew}>
        <PlusIcon /> Begin a new one
      </button>
    </div>
  </div>
)

/** What it holds is not theirs to see any more, so it is closed; what they were writing is theirs. */
export function Gone({ draft, onNew }: { draft: string | null; onNew(): void }) {
  const heading = useRef<HTMLHeadingElement>(null)
  // The field that had the keyboard is gone.
  useEffect(() => {
    if (document.activeElement === document.body) heading.current?.focus()
  }, [])
  return (
    <div className="welcome">
      <div className="column">
        <div role="alert">
          <h2 ref={heading} tabIndex={-1} className="text-xl font-semibold">
            You are not in this chat any more.
          </h2>
          <p className="mt-2 text-mute">
            You were removed from it, or it was deleted. To come back, ask an owner for a new invitation.
          </p>
        </div>
        {draft !== null && (
          <figure className="kept-draft">
            <figcaption>
              You were writing <CopyButton text={draft} label="Copy what you were writing" />
            </figcaption>
            <p dir="auto">{draft}</p>
          </figure>
        )}
        <button type="button" className="small-button mt-4" onClick={onNew}>
          <PlusIcon /> Begin a new one
        </button>
      </div>
    </div>
  )
}

/** So soon nearly every chat is there, and nothing need be said. */
const soonMs = 600

/** A chat of which nothing is known so far. */
export function Awaited({ isDown }: { isDown: boolean }) {
  const isTold = useIsLate(true, soonMs)
  const isLate = useIsLate(isDown, downMs)
  return (
    <div className="welcome">
      <p className="column text-center text-mute" role="status">
        {isTold && (isLate ? 'The chat is shown when the server is reached.' : 'The chat is being loaded…')}
      </p>
    </div>
  )
}
