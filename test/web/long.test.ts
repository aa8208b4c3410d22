/** A long conversation: drawn where it is read, and all of it there for who searches, goes by keyboard or reads on. */
import type { BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { groupsOf } from '../../web/src/groups.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { untilStatusOn } from './page.ts'
import { gatesOf, openStage, openTab, type Stage } from './stage.ts'

const count = 160
const long = (n: number) => Array.from({ length: 6 }, (_, at) => `Paragraph ${at} of reply ${n}, **as it is**.`)

let stage: Stage
let context: BrowserContext
let page: Page
let complaints: string[]
const gates = gatesOf()

beforeAll(async () => {
  stage = await openStage()
})
afterAll(() => stage.close())
beforeEach(async () => {
  complaints = []
  gates.clear()
  stage.provider.script(({ body }) => {
    const said: string = body.messages.findLast(({ role }: { role: string }) => role === 'user').content
    const paragraphs = long(Number(said.replace(/\D/g, '')))
    if (!said.includes('wait')) return [{ text: paragraphs.join('\n\n') }]
    const steps = Array.from({ length: 40 }, (_, at) => [{ text: `Line ${at} of many.\n\n` }, { pauseMs: 5 }]).flat()
    return [{ text: 'It begins.\n\n' }, { wait: gates.of('begin').passed }, ...steps]
  })
  context = await stage.browser.newContext({ viewport: { width: 1280, height: 800 } })
})
afterEach(async () => {
  await context.close()
  await eventually(async () => stage.site.openStreams() === 0)
  expect(complaints).toEqual([])
})

const scroller = () => page.locator('.messages')
const idsOf = () =>
  page
    .locator('main article')
    .evaluateAll((all) => all.map((it) => (it as HTMLElement).dataset.message ?? (it as HTMLElement).dataset.reply))

/** So many messages and replies, of which the page shows all. */
async function openLong(): Promise<void> {
  const made = await context.request.post(`${stage.site.origin}/v1/sessions`, { data: {} })
  const { id } = (await made.json()) as { id: string }
  const path = `${stage.site.origin}/v1/sessions/${id}/messages`
  for (let at = 0; at < count / 2; at++) {
    const answer = await context.request.post(`${path}?wait=10`, { data: { id: `m${at}`, text: `message ${at}` } })
    expect(answer.status()).toBe(200)
  }
  page = await openTab(context, `${stage.site.origin}/#/${id}`, complaints)
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  const button = page.getByRole('button', { name: 'Earlier messages' })
  await eventually(async () => {
    await scroller().evaluate((it) => it.scrollTo({ top: it.scrollTop === 0 ? 2_000 : 0 }))
    return (await button.count()) === 0
  }, 30_000)
}

const place = (id: string) => page.locator(`[data-message="${id}"]`).evaluate((it) => it.getBoundingClientRect().top)
const drawn = () => page.locator('.group:not(.is-far)').count()

test('of a long chat only what is near is drawn whole, in order, up and down; its text is all there; keys and focus work', async () => {
  await openLong()
  const order = await idsOf()
  expect(order.length).toBe(count)
  expect(order.filter((id) => id?.startsWith('m'))).toEqual(Array.from({ length: count / 2 }, (_, at) => `m${at}`))
  const seen: number[] = []
  const inSight = () =>
    page.evaluate(() => {
      const at = (y: number) => document.elementFromPoint(640, y)?.closest('article')
      return at(300)?.textContent?.match(/reply (\d+)/)?.[1] ?? null
    })
  for (const step of [1, -1]) {
    for (let part = 0; part <= 10; part++) {
      const to = step > 0 ? part / 10 : 1 - part / 10
      await scroller().evaluate((it, top) => it.scrollTo({ top: it.scrollHeight * top }), to)
      // What is looked at is drawn as it is, and what was is not kept for ever.
      await eventually(() =>
        page.evaluate(() => {
          const group = document.elementFromPoint(640, 300)?.closest('.group')
          return !group || (!group.matches('.is-far') && group.querySelector('.reply-text strong') !== null)
        }),
      )
      await eventually(async () => (await drawn()) <= 16)
      const number = await inSight()
      if (number !== null) seen.push(Number(number))
    }
  }
  const top = seen.indexOf(Math.max(...seen))
  expect(seen.slice(0, top + 1)).toEqual(seen.slice(0, top + 1).sort((a, b) => a - b))
  expect(seen.slice(top)).toEqual(seen.slice(top).sort((a, b) => b - a))
  expect(new Set(seen).size).toBeGreaterThan(6)
  // All of it is text of the page, to who searches it or has it read out.
  expect(
    await page
      .locator('article.reply')
      .evaluateAll((all) => all.map((it) => it.textContent?.includes('Paragraph 5 of reply'))),
  ).toEqual(Array.from({ length: count / 2 }, () => true))
  await scroller().focus()
  await page.keyboard.press('End')
  await page
    .locator(`[data-message="m${count / 2 - 1}"]`)
    .getByRole('button', { name: 'Edit message' })
    .waitFor()
  await page.keyboard.press('Home')
  const first = page.locator('[data-message="m0"]').getByRole('button', { name: 'Edit message' })
  await first.waitFor()
  await first.focus()
  await page.keyboard.press('PageDown')
  for (let presses = 0; presses < 30; presses++) await page.keyboard.press('Tab')
  const focused = () => page.evaluate(() => document.activeElement?.closest('article') !== null)
  expect(await focused()).toBe(true)
  // What has the keyboard stays, however far the reader goes.
  await scroller().focus()
  await page.keyboard.press('Home')
  await first.focus()
  for (const part of [0.2, 0.4, 0.6, 0.8, 1]) {
    await scroller().evaluate((it, top) => it.scrollTo({ top: it.scrollHeight * top }), part)
    await eventually(async () => (await page.locator('.group.is-far').count()) > 0)
  }
  expect(await page.evaluate(() => document.activeElement?.closest('article')?.getAttribute('data-message'))).toBe('m0')
})

test('who reads on in a long chat while a reply streams is not moved', async () => {
  await openLong()
  const path = new URL(page.url()).hash.slice(2)
  await scroller().evaluate((it) => it.scrollTo({ top: it.scrollHeight / 2 }))
  const id = await eventuallyIs(() =>
    page.evaluate(() => {
      const group = document.elementFromPoint(640, 400)?.closest('.group:not(.is-far)')
      return group?.querySelector('article.own')?.getAttribute('data-message') ?? null
    }),
  )
  await eventually(
    async () => (await page.locator('.group:not(.is-far) .whitespace-pre-wrap.reply-text').count()) === 0,
  )
  const start = await place(id)
  await context.request.post(`${stage.site.origin}/v1/sessions/${path}/messages`, { data: { id: 'w', text: 'wait 1' } })
  const begun = await page.locator('article.reply').getByText('It begins.').elementHandle()
  gates.of('begin').open()
  await untilStatusOn(page, 'complete')
  await page.locator('article.reply').getByText('Line 39 of many.').waitFor()
  // What was finished before is not drawn again.
  expect(await begun?.evaluate((it) => it.isConnected)).toBe(true)
  expect(Math.abs((await place(id)) - start)).toBeLessThanOrEqual(2)
})

test('who is at the top gets what was before, also where a busy page is told late that the reader has come near', async () => {
  const made = await context.request.post(`${stage.site.origin}/v1/sessions`, { data: {} })
  const { id } = (await made.json()) as { id: string }
  await queryOnce(
    stage.database.url,
    `select count(holdfast.say(s.tenant_id, s.id, 'm' || n, '[{"type":"text","text":"said"}]', null, 'said', null, 'main'))
       from holdfast.sessions s, generate_series(1, 70) n where s.id = '${id}'`,
  )
  // As browsers may: what changed first, and what changed then, are told together.
  await context.addInitScript(() => {
    let held: IntersectionObserverEntry[] | null = []
    const isOfButton = ({ target }: IntersectionObserverEntry) => target.querySelector('.small-button') !== null
    window.IntersectionObserver = class extends IntersectionObserver {
      constructor(tell: IntersectionObserverCallback, options?: IntersectionObserverInit) {
        super((entries, observer) => {
          if (held === null || !entries.some(isOfButton)) return tell(entries, observer)
          held.push(...entries)
          if (held.length === 1) return document.querySelector('.messages')?.scrollTo({ top: 0 })
          const all = held
          held = null
          tell(all, observer)
        }, options)
      }
    }
  })
  page = await openTab(context, `${stage.site.origin}/#/${id}`, complaints)
  await eventually(async () => (await page.locator('main article').count()) === 70)
})

test('of a very long chat the page has what is around the reader, and room for the rest, all of it read out', async () => {
  const made = await context.request.post(`${stage.site.origin}/v1/sessions`, { data: {} })
  const { id } = (await made.json()) as { id: string }
  const many = 560
  await queryOnce(
    stage.database.url,
    `select count(holdfast.say(s.tenant_id, s.id, 'm' || n,
        jsonb_build_array(jsonb_build_object('type', 'text', 'text', repeat('said ' || n || E'\n\n', n % 5 + 1))),
        null, n::text, null, 'main'))
       from holdfast.sessions s, generate_series(1, ${many}) n where s.id = '${id}'`,
  )
  page = await openTab(context, `${stage.site.origin}/#/${id}`, complaints)
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  const button = page.getByRole('button', { name: 'Earlier messages' })
  await eventually(async () => {
    await scroller().evaluate((it) => it.scrollTo({ top: it.scrollTop === 0 ? 2_000 : 0 }))
    return (await button.count()) === 0
  }, 30_000)
  /** The numbers of those in sight, with nothing but them there. Null: there is none, or room between them. */
  const inSight = () =>
    scroller().evaluate((it) => {
      const view = it.getBoundingClientRect()
      const isSeen = (each: Element) => {
        const { top, bottom } = each.getBoundingClientRect()
        return bottom > view.top && top < view.bottom
      }
      if ([...it.querySelectorAll('.room')].some(isSeen)) return null
      const seen = [...it.querySelectorAll<HTMLElement>('article')].filter(isSeen)
      return seen.length === 0 ? null : seen.map(({ dataset }) => Number(dataset.reply?.slice(1)))
    })
  const bounded = many * 0.9
  for (const part of [0, 0.5, 0.2, 1, 0.8, 0.02, 0.6]) {
    await scroller().evaluate((it, to) => it.scrollTo({ top: it.scrollHeight * to }), part)
    await eventually(async () => (await page.locator('main article').count()) < bounded && (await inSight()) !== null)
    const seen = (await inSight())!
    expect(seen).toEqual(seen.map((_, at) => seen[0]! + at))
    expect(Math.abs(seen[0]! / many - part)).toBeLessThan(0.1)
  }
  // From there on by small steps, each message after the other.
  let last = (await inSight())!.at(-1)!
  for (let step = 0; step < 15; step++) {
    await scroller().evaluate((it) => it.scrollBy({ top: 500 }))
    const seen = await eventuallyIs(inSight)
    expect(seen[0]!).toBeLessThanOrEqual(last + 1)
    last = seen.at(-1)!
  }
  const devtools = await context.newCDPSession(page)
  await eventually(async () => {
    const { nodes } = await devtools.send('Accessibility.getFullAXTree')
    return nodes.filter(({ role }) => role?.value === 'article').length === (await page.locator('main article').count())
  })
})

async function eventuallyIs<Value>(look: () => Promise<Value | null>): Promise<Value> {
  let found: Value | null = null
  await eventually(async () => {
    found = await look()
    return found !== null
  })
  return found!
}

test('groups keep their messages and stay the same objects where nothing changed, whichever end grows', () => {
  type Message = Parameters<typeof groupsOf>[0][number]
  const message = (id: string) => ({ id }) as Message
  const some = Array.from({ length: 20 }, (_, at) => message(`b${at}`))
  const first = groupsOf(some, [])
  const earlier = Array.from({ length: 10 }, (_, at) => message(`a${at}`))
  const grown = groupsOf([...earlier, ...some], first)
  expect(grown.slice(-first.length)).toEqual(first)
  expect(grown.at(-1)).toBe(first.at(-1))
  const changed = [...earlier, ...some.slice(0, -1), message('b19'), message('c0')]
  const next = groupsOf(changed, grown)
  expect(next.flatMap(({ messages }) => messages)).toEqual(changed)
  expect(next.slice(0, -2)).toEqual(grown.slice(0, -1))
  for (const [at, group] of grown.slice(0, -1).entries()) expect(next[at]).toBe(group)
  expect(new Set(next.map(({ key }) => key)).size).toBe(next.length)
  const keyOf = (groups: typeof next, id: string) =>
    groups.find(({ messages }) => messages.some((it) => it.id === id))?.key
  expect(keyOf(next, 'b19')).toBe(keyOf(grown, 'b19'))
})

test('of thousands of messages a piece of a reply changes one group, and an earlier page adds some before them', () => {
  type Message = Parameters<typeof groupsOf>[0][number]
  const message = (id: string) => ({ id }) as Message
  const some = Array.from({ length: 4_000 }, (_, at) => message(`b${at}`))
  const groups = groupsOf(some, [])
  const grown = groupsOf([...some.slice(0, -1), message('b3999')], groups)
  expect(grown.filter((group, at) => group !== groups[at]).length).toBe(1)
  const paged = groupsOf([...Array.from({ length: 50 }, (_, at) => message(`a${at}`)), ...some], groups)
  expect(paged.slice(-groups.length).every((group, at) => group === groups[at])).toBe(true)
})
