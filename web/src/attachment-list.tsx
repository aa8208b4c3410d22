/** The files that go with what is written: what is still on its way, what went wrong and what can be done about it. */
import { type RefObject, useEffect, useRef, useState } from 'react'
import { type Attachment, remove, uploadAgain } from './attachments.ts'
import { sizeWords } from './file-sizes.ts'
import { AlertIcon, CloseIcon, FileIcon, ReloadIcon } from './icons.tsx'

type ListProps = {
  sessionId: string
  attachments: readonly Attachment[]
  /** The focus goes there when the last one is taken away. */
  field: RefObject<HTMLElement | null>
}

export function AttachmentList({ sessionId, attachments, field }: ListProps) {
  const list = useRef<HTMLUListElement>(null)
  const take = (id: string, at: number) => {
    remove(sessionId, id)
    requestAnimationFrame(() => {
      const buttons = list.current?.querySelectorAll<HTMLElement>('.attachment-remove')
      const next = buttons?.[Math.min(at, buttons.length - 1)] ?? field.current
      next?.focus()
    })
  }
  return (
    <>
      <Told attachments={attachments} />
      {attachments.length > 0 && (
        <ul ref={list} className="attachments" aria-label="Files to send">
          {attachments.map((attachment, at) => (
            <Chip key={attachment.id} attachment={attachment} onRemove={() => take(attachment.id, at)} />
          ))}
        </ul>
      )}
    </>
  )
}

function Chip({
  attachment: { id, name, size, preview, stand },
  onRemove,
}: {
  attachment: Attachment
  onRemove(): void
}) {
  const hasFailed = stand.state === 'failed'
  return (
    <li className={hasFailed ? 'attachment has-failed' : 'attachment'} data-state={stand.state}>
      <span className="attachment-sign">
        {preview !== null ? (
          <img src={preview} alt="" width={40} height={40} />
        ) : hasFailed ? (
          <AlertIcon />
        ) : (
          <FileIcon />
        )}
      </span>
      <span className="attachment-words">
        <bdi className="attachment-name" title={name}>
          {name}
        </bdi>
        <span className="attachment-stand">{hasFailed ? stand.error : <StandWords stand={stand} size={size} />}</span>
        {stand.state === 'uploading' && <progress aria-label={`Upload of ${name}`} max={1} value={stand.share} />}
      </span>
      {hasFailed && stand.mayTry && (
        <button
          type="button"
          className="quiet-button"
          aria-label={`Upload ${name} again`}
          onClick={() => uploadAgain(id)}
        >
          <ReloadIcon />
        </button>
      )}
      <button type="button" className="quiet-button attachment-remove" aria-label={`Remove ${name}`} onClick={onRemove}>
        <CloseIcon />
      </button>
    </li>
  )
}

function StandWords({ stand, size }: Pick<Attachment, 'stand' | 'size'>) {
  const words = size === null ? '' : sizeWords(size)
  if (stand.state === 'waiting') return <>{words} · Waits</>
  if (stand.state === 'uploading') {
    return (
      <>
        {words} · {Math.round(stand.share * 100)}%
      </>
    )
  }
  return <>{words}</>
}

/** What became of each is read out once. */
function Told({ attachments }: Pick<ListProps, 'attachments'>) {
  const [words, setWords] = useState('')
  const before = useRef<readonly Attachment[]>(attachments)
  useEffect(() => {
    const was = new Map(before.current.map(({ id, stand }) => [id, stand.state]))
    before.current = attachments
    const lines = attachments.flatMap(({ id, name, stand }) => {
      if (stand.state === was.get(id)) return []
      if (stand.state === 'uploading') return [`${name} is being uploaded.`]
      if (stand.state === 'uploaded') return [`${name} is uploaded.`]
      return stand.state === 'failed' ? [`${name} was not uploaded. ${stand.error}`] : []
    })
    if (lines.length > 0) setWords(lines.join(' '))
  }, [attachments])
  return (
    <span className="sr-only" role="status">
      {words}
    </span>
  )
}

/** Why it cannot be sent now. Null: nothing of the files is in its way. */
export function obstacleOf(attachments: readonly Attachment[]): string | null {
  const failed = attachments.flatMap(({ stand }) => (stand.state === 'failed' ? [stand] : []))
  const open = attachments.filter(({ stand }) => stand.state === 'waiting' || stand.state === 'uploading').length
  if (failed.length > 0) {
    const [which, them] = failed.length === 1 ? ['One file was', 'it'] : [`${failed.length} files were`, 'them']
    const next = failed.some(({ mayTry }) => mayTry)
      ? `Try again, or remove ${them}.`
      : `Remove ${them} to send the rest.`
    return `${which} not uploaded. ${next}`
  }
  return open > 0 ? `It can be sent when ${open === 1 ? 'the file is' : `the ${open} files are`} uploaded.` : null
}
