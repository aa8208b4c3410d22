/** What a test reads off the page, and what the server has stored of the same chat. */
import type { Page } from 'playwright-core'
import { expect } from 'vitest'

export const words = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => `word${from + index}`).join(' ')

export type StoredMessage = {
  id: string
  role: string
  status: string
  round: number | null
  error: { code: string } | null
  branch: { index: number; count: number } | null
  parts: { type: string; text?: string }[]
}
export type Stored = {
  messages: StoredMessage[]
  turns: { messageId: string; state: string; round: number }[]
}

export async function storedOf(page: Page): Promise<Stored> {
  const { origin, hash } = new URL(page.url())
  const answer = await page.context().request.get(`${origin}/v1/sessions/${hash.slice(2)}`)
  expect(answer.status()).toBe(200)
  return (await answer.json()) as Stored
}

/** Every message on the page reads as it is stored: plain words in these tests, so that markdown changes nothing. */
export async function expectShownIsStored(page: Page): Promise<void> {
  const { messages } = await storedOf(page)
  const own = await page.locator('article.own .own-text').allTextContents()
  const replies = await page.locator('article.reply .reply-text').allTextContents()
  const textsOf = (role: string) =>
    messages
      .filter((message) => message.role === role)
      .map(({ parts }) => parts.flatMap(({ type, text }) => (type === 'text' ? [text] : [])).join(''))
      // A space at the end of a paragraph is nothing in markdown.
      .map((text) => (role === 'user' ? text : text.trimEnd()))
  expect(own).toEqual(textsOf('user'))
  expect(replies).toEqual(textsOf('assistant').filter(Boolean))
}
