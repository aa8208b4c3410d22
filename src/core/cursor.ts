/**
 * Where a follower stands in a session's log: every event up to `seq`, and of each turn without an outcome the chunks
 * of one attempt up to `index`. Written as `epoch.seq[.position:attempt:index…]`; clients treat it as opaque. A turn
 * is named by its position, which is shorter than its id and as unique within a session.
 */
export type Cursor = { epoch: string; seq: number; open: ReadonlyMap<number, OpenAttempt> }
/** `audience`: of the turn, where not everybody sees it and that is known; not written into the cursor. */
export type OpenAttempt = { attempt: number; index: number; audience?: string }

/** Many more than a session has lanes, each with a turn open and some that back off; a longer cursor is not ours. */
const openMax = 1_024

export function encodeCursor(cursor: Cursor): string {
  let text = `${cursor.epoch}.${cursor.seq}`
  for (const [position, { attempt, index }] of cursor.open) text += `.${position}:${attempt}:${index}`
  return text
}

/** Null when the text is no cursor: `bad_cursor`. A cursor of another epoch decodes well; the follower judges it. */
export function decodeCursor(text: string): Cursor | null {
  const [epoch, seq, ...rest] = text.split('.')
  if (epoch === undefined || !/^[a-z0-9]{1,16}$/.test(epoch) || !isCount(seq) || rest.length > openMax) return null
  const open = new Map<number, OpenAttempt>()
  for (const entry of rest) {
    const [position, attempt, index, ...more] = entry.split(':')
    if (!isCount(position) || !isCount(attempt) || !isCount(index) || more.length > 0) return null
    if (open.has(Number(position))) return null
    open.set(Number(position), { attempt: Number(attempt), index: Number(index) })
  }
  return { epoch, seq: Number(seq), open }
}

function isCount(text: string | undefined): text is string {
  return text !== undefined && /^(0|[1-9]\d{0,8})$/.test(text)
}
