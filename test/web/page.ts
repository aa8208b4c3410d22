/** What a test reads off the page, and what the server has stored of the same chat. */
import { isDeepStrictEqual } from 'node:util'
import type { Page } from 'playwright-core'
import { expect } from 'vitest'
import type { Message as AnyMessage } from '../../src/core/message.ts'
import { textOf } from '../../src/core/parts.ts'
import { createView, type Snapshot } from '../../src/core/view.ts'
import { asksOf, questionOf } from '../../web/src/asks.ts'
import { possibleIn } from '../../web/src/possible.ts'
import { eventually } from '../support/eventually.ts'

export const words = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => `word${from + index}`).join(' ')

export const composerOn = (tab: Page) => tab.getByLabel('Message', { exact: true })
export async function sendOn(tab: Page, text: string): Promise<void> {
  await composerOn(tab).fill(text)
  await tab.keyboard.press('Enter')
}
export const ownOn = (tab: Page, text: string) => tab.locator('article.own').filter({ hasText: text })
export const buttonOn = (tab: Page, name: string) => tab.getByRole('button', { name, exact: true })
export const untilStatusOn = (tab: Page, status: string) =>
  tab.locator(`article.reply[data-status="${status}"]`).last().waitFor()
export const untilStreamingOn = (tab: Page) =>
  tab.locator('article.reply[data-status="streaming"]').getByText('word39').waitFor()
export const repliedOn = (tab: Page, text: RegExp) => tab.locator('article.reply').getByText(text)

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

type Shown = { id: string; text: string; status: string | null; controls: string[] }

/**
 * Every message on the page reads as it is stored (plain words in these tests, so that markdown changes nothing), has
 * that status, and offers what is possible as the server has it now: a page that followed shows what a new one would.
 */
export async function expectShownIsStored(page: Page): Promise<void> {
  const look = async (): Promise<[Shown[], Shown[]]> => {
    const shown = await shownOn(page)
    return [shown, wantedOf(seenIn((await storedOf(page)) as unknown as Snapshot))]
  }
  // A frame may be on its way.
  await eventually(async () => isDeepStrictEqual(...(await look())), 5_000).catch(() => undefined)
  const [shown, wanted] = await look()
  expect(shown).toEqual(wanted)
}

function shownOn(page: Page): Promise<Shown[]> {
  return page.locator('main article').evaluateAll((articles) =>
    articles.map((article) => {
      const { message, reply, status = null } = (article as HTMLElement).dataset
      const texts = [...article.querySelectorAll('.own-text, .reply-text')].map((it) => it.textContent?.trimEnd() ?? '')
      const text = texts.join('\n\n')
      const controls = [...article.querySelectorAll('button, fieldset')]
        .map((it) =>
          it.className === 'question' ? '' : (it.getAttribute('aria-label') ?? it.textContent?.trim() ?? ''),
        )
        .filter((label) => !/^Copy|^Previous|^Next|^What happened/.test(label))
      return { id: message ?? reply ?? '', text, status, controls: controls.sort() }
    }),
  )
}

/** What a page that has just loaded it would show. */
function seenIn(snapshot: Snapshot) {
  const { messages, turns } = createView(snapshot).now()
  return { turns, messages: messages.map((message) => ({ ...(message as AnyMessage), delivery: null })) }
}
type Seen = ReturnType<typeof seenIn>

function questionsOf({ turns }: Seen, replyId: string): string[] {
  const turn = turns.find((each) => each.replyId === replyId)
  return (turn ? asksOf(turn) : []).flatMap((ask) => {
    const question = questionOf(ask)
    return question ? [question.yes ?? '', question.no, ''] : []
  })
}

function wantedOf(view: Seen): Shown[] {
  const possible = possibleIn(view)
  return view.messages.flatMap((message): Shown[] => {
    const can = possible(message)
    const { id, role, status, branch } = message
    const isBehind = (can.place ?? 0) > 0
    const isQueued = isBehind && !can.isUnderWay
    if (role === 'assistant' && status === 'pending' && isQueued && !can.switch) return []
    const noun = role === 'user' ? 'version' : 'reply'
    const controls = [
      can.edit && 'Edit message',
      can.withdraw && 'Withdraw',
      can.stop && isBehind && 'Stop',
      ...(role === 'assistant' ? questionsOf(view, id) : []),
      can.retry && 'Retry',
      can.another && 'Another reply',
      branch && `${noun} ${branch.index + 1} of ${branch.count}`,
    ]
    // A space at the end of a paragraph is nothing in markdown.
    const text = textOf(message.parts).trimEnd()
    const shown = { id, text, status: role === 'user' ? null : status }
    return [{ ...shown, controls: controls.filter((each) => typeof each === 'string').sort() }]
  })
}

/** What the page does not offer the server refuses, or it changes nothing: asked of it, all of it. */
export async function expectNotOfferedIsRefused(page: Page): Promise<void> {
  const { origin, hash } = new URL(page.url())
  const snapshot = (await storedOf(page)) as unknown as Snapshot
  const view = seenIn(snapshot)
  const possible = possibleIn(view)
  const ask = async (id: string, command: string, data: object) => {
    const path = `${origin}/v1/sessions/${hash.slice(2)}/messages/${id}/${command}`
    return (await page.context().request.post(path, { data })).status()
  }
  for (const message of view.messages) {
    const { edit, retry, another } = possible(message)
    const { id, role } = message
    const newId = `not-offered-${id}`
    if (role === 'user' && !edit) expect([403, 409, 410]).toContain(await ask(id, 'edit', { id: newId, text: 'no' }))
    if (role === 'assistant' && !retry && !another) {
      expect([200, 409, 410, 429]).toContain(await ask(id, 'retry', { round: message.round ?? 1 }))
    }
  }
  expect(((await storedOf(page)) as unknown as Snapshot).cursor).toBe(snapshot.cursor)
}
