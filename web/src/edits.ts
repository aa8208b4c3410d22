/**
 * What is written in place of a message. It stays until the server has it or its writer gives it up: over a reload,
 * another chat, a branch that another device shows, and Escape.
 */
import type { EditedMessage } from 'holdfast/client'
import { recall, recallAll, remember } from './storage.ts'

export type Edit = {
  text: string
  /** False: put aside by Escape. */
  isOpen: boolean
  /** Under way to the server, or nobody knows whether it came there: then it is asked again, with the same id. */
  asked: EditBody | null
}
export type EditBody = EditedMessage & { id: string }

export type Edits = {
  of(messageId: string): Edit | null
  /** Null forgets. */
  set(messageId: string, edit: Edit | null): void
  /** Those whose answers never came, to an earlier page or to this one. */
  asked(): { messageId: string; body: EditBody }[]
}

/** What this page knows; its storage may be forbidden, or another page's by now. */
const known = new Map<string, Edit | null>()
const hearers = new Set<() => void>()

export function subscribeEdits(hear: () => void): () => void {
  hearers.add(hear)
  return () => hearers.delete(hear)
}

export function editsOf(sessionId: string): Edits {
  const prefix = `edit:${encodeURIComponent(sessionId)}:`
  const of = (messageId: string) => {
    const key = prefix + messageId
    const there = known.get(key)
    if (there !== undefined) return there
    const edit = parsed(recall(key))
    known.set(key, edit)
    return edit
  }
  return {
    of,
    set(messageId, edit) {
      known.set(prefix + messageId, edit)
      remember(prefix + messageId, edit && JSON.stringify({ messageId, ...edit }))
      for (const hear of hearers) hear()
    },
    asked() {
      const ids = recallAll(prefix).map((text) => (JSON.parse(text) as { messageId: string }).messageId)
      return ids.flatMap((messageId) => {
        const body = of(messageId)?.asked
        return body ? [{ messageId, body }] : []
      })
    },
  }
}

function parsed(stored: string | null): Edit | null {
  if (stored === null) return null
  const { text, isOpen, asked } = JSON.parse(stored) as Edit
  return { text, isOpen, asked }
}
