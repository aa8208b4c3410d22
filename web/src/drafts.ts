/** What is written in the composers, one for each session. */
import { recall, remember } from './storage.ts'

export const draftKeyOf = (sessionId: string) => `draft:${sessionId}`

const composers = new Map<string, (text: string) => void>()

/** Puts a text behind what is written there, whether its composer is shown at the moment or not. */
export function giveBack(draftKey: string, given: string): void {
  const take = composers.get(draftKey)
  if (take) take(given)
  else remember(draftKey, behind(recall(draftKey) ?? '', given))
}

export const behind = (written: string, given: string) => (written.trim() === '' ? given : `${written}\n\n${given}`)

/** From now on this composer takes it; until what is answered is called. */
export function composerOf(draftKey: string, take: (text: string) => void): () => void {
  composers.set(draftKey, take)
  return () => {
    if (composers.get(draftKey) === take) composers.delete(draftKey)
  }
}
