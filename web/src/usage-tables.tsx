/** The same figures by model, by chat and by day. Names of models and titles are text, whatever they say. */
import { type ReactNode, useEffect, useRef, useState } from 'react'
import type { Chat } from './chats.ts'
import { FoldIcon } from './icons.tsx'
import { goTo } from './place.ts'
import { type Part, tokensOf } from './usage.ts'
import { dateWords } from './usage-days.ts'
import type { UsageProps } from './usage-place.tsx'
import { costWords, countWords } from './usage-words.ts'

export const ModelsTable = ({ parts }: { parts: readonly Part[] }) => (
  <section className="usage-card">
    <h2 id="usage-models">By model</h2>
    <Table labelledBy="usage-models" first="Model" parts={parts} hasShares>
      {({ key }) => (key === '' ? <span className="text-mute">Not known</span> : <bdi>{key}</bdi>)}
    </Table>
  </section>
)

/** So many at first: who uses it much has hundreds. */
const shownAtFirst = 10

type SessionsProps = { parts: readonly Part[]; chats: readonly Chat[]; onOlder: UsageProps['onOlder'] }

export function SessionsTable({ parts, chats, onOlder }: SessionsProps) {
  const [areAllShown, setAllShown] = useState(false)
  const titles = new Map(chats.map(({ id, title }) => [id, title]))
  const shown = areAllShown ? parts : parts.slice(0, shownAtFirst)
  useTitles(
    shown.some(({ key }) => !titles.has(key)),
    onOlder,
  )
  return (
    <section className="usage-card">
      <h2 id="usage-chats">By chat</h2>
      <Table labelledBy="usage-chats" first="Chat" parts={shown} hasShares>
        {({ key }) => <ChatName id={key} title={titles.get(key)} isListed={onOlder === null} />}
      </Table>
      {parts.length > shownAtFirst && (
        <button type="button" className="small-button mx-auto mt-2" onClick={() => setAllShown(!areAllShown)}>
          {areAllShown ? 'Fewer chats' : `All ${countWords(parts.length)} chats`}
        </button>
      )}
    </section>
  )
}

/** So many pages of the list are asked for at most. */
const pagesMost = 5

/** A chat that is not in the list so far may be further down: it goes by when a chat was last used. */
function useTitles(areMissing: boolean, onOlder: UsageProps['onOlder']): void {
  const asked = useRef(0)
  useEffect(() => {
    if (!areMissing || onOlder === null || asked.current >= pagesMost) return
    asked.current++
    // Without them they are called what they are: older chats.
    onOlder().catch(() => undefined)
  }, [areMissing, onOlder])
}

/** `isListed`: the list has all chats that there are; one that is not in it was deleted or left. */
function ChatName({ id, title, isListed }: { id: string; title: string | undefined; isListed: boolean }) {
  if (title === undefined && isListed) return <span className="text-mute">A chat that is gone</span>
  return (
    <a
      href={`#/${id}`}
      dir="auto"
      onClick={(event) => {
        // Those ask for a tab or window of its own.
        if (event.metaKey || event.ctrlKey || event.shiftKey) return
        event.preventDefault()
        goTo(id)
      }}
    >
      {title ?? 'An older chat'}
    </a>
  )
}

/** Closed at first: the chart says it, to whoever sees it. */
export const DaysTable = ({ parts }: { parts: readonly Part[] }) => (
  <details className="usage-card">
    <summary>
      <h2 id="usage-days">By day</h2>
      <span className="usage-fold">
        <FoldIcon />
      </span>
    </summary>
    <Table labelledBy="usage-days" first="Day" parts={parts.toReversed()}>
      {({ key }) => <bdi>{dateWords(key)}</bdi>}
    </Table>
    <p className="usage-note">
      On days that are not listed nothing was used. Days are those of UTC; what is used counts on the day on which its
      reply ended.
    </p>
  </details>
)

type TableProps = {
  labelledBy: string
  first: string
  parts: readonly Part[]
  hasShares?: boolean
  children(part: Part): ReactNode
}

function Table({ labelledBy, first, parts, hasShares = false, children }: TableProps) {
  const most = Math.max(1, ...parts.map(tokensOf))
  const hasCost = parts.some(({ cost }) => cost !== null)
  return (
    <table className="usage-table" aria-labelledby={labelledBy}>
      <thead>
        <tr>
          <th scope="col">{first}</th>
          <th scope="col">Replies</th>
          <th scope="col">Input</th>
          <th scope="col">Output</th>
          {hasCost && <th scope="col">Cost</th>}
        </tr>
      </thead>
      <tbody>
        {parts.map((part) => (
          <tr key={part.key}>
            <th scope="row">
              {children(part)}
              {part.estimated > 0 && <span className="usage-estimated">Partly estimated</span>}
              {hasShares && (
                <svg className="usage-share" height="3" aria-hidden="true">
                  <rect width={`${(100 * tokensOf(part)) / most}%`} height="3" rx="1.5" />
                </svg>
              )}
            </th>
            <td>{countWords(part.replies)}</td>
            <td>{countWords(part.inputTokens)}</td>
            <td>{countWords(part.outputTokens)}</td>
            {hasCost && <td>{costWords(part)}</td>}
          </tr>
        ))}
      </tbody>
    </table>
  )
}
