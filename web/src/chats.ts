/** The list of chats: those that the server has, and those that only this device knows so far. */
import { type Session, textOf, type UnsentView } from 'holdfast/client'
import { plainText } from './plain-text.ts'

export type Chat = {
  id: string
  title: string
  preview: string
  updatedAt: string
  /** False: its first message has not been sent yet. */
  isStored: boolean
  /** So many were not read on any device. */
  unread: number
  /** Of messages in it that are here only. */
  unsent: 'Not sent' | 'Not sent yet' | null
}

export function chatsOf(sessions: readonly Session[], unsent: readonly UnsentView[]): readonly Chat[] {
  const unsentIn = new Map<string, UnsentView[]>()
  for (const each of unsent) unsentIn.set(each.sessionId, [...(unsentIn.get(each.sessionId) ?? []), each])
  const stored = sessions.map(({ id, title, lastPreview, updatedAt, unread }): Chat => {
    const preview = plainText(lastPreview ?? '')
    const shown = { id, title: title ?? (preview || 'New chat'), preview, updatedAt }
    return { ...shown, unread, isStored: true, unsent: hasFailed(unsentIn.get(id)) ? 'Not sent' : null }
  })
  const known = new Set(sessions.map(({ id }) => id))
  const others = [...unsentIn].filter(([id]) => !known.has(id))
  return [
    ...others.map(([id, [first, ...more]]): Chat => {
      const preview = plainText(textOf(first!.parts)).slice(0, previewLength)
      const shown = { id, title: first!.makes?.title ?? 'Chat', preview, updatedAt: first!.writtenAt }
      return {
        ...shown,
        unread: 0,
        isStored: false,
        unsent: hasFailed([first!, ...more]) ? 'Not sent' : 'Not sent yet',
      }
    }),
    ...stored,
  ]
}

const previewLength = 140

const hasFailed = (unsent: readonly UnsentView[] = []) => unsent.some(({ state }) => state === 'failed')

/** Those whose title has these words in it, in any order. */
export function matching(chats: readonly Chat[], wanted: string): readonly Chat[] {
  const words = wanted.toLowerCase().split(/\s+/)
  return chats.filter(({ title }) => words.every((word) => title.toLowerCase().includes(word)))
}
