import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import type { Provider, ProviderRequest } from '../support/provider.mjs'
import { expectShownIsStored as expectShownIsStoredOn, type Stored, storedOf, words } from './page.ts'
import { faultsOf, openStage, openTab, type Stage } from './stage.ts'
import type { Site } from './support.ts'

let stage: Stage
let provider: Provider
let site: Site
let context: BrowserContext
let page: Page
let complaints: string[]

beforeAll(async () => {
  stage = await openStage()
  ;({ provider, site } = stage)
})
afterAll(() => stage.close())

// Each test is a guest of its own.
beforeEach(async () => {
  site.passed.length = 0
  site.setDown(false)
  context = await stage.browser.newContext({ viewport: { width: 1280, height: 800 } })
  complaints = []
  page = await newTab()
})
afterEach(async () => {
  await context.close()
  // The next test counts its own.
  await eventually(async () => site.openStreams() === 0)
  expect(complaints).toEqual([])
})

const newTab = (path = '/') => openTab(context, site.origin + path, complaints)

/** What the client begins with, and what stands for it where it does not get through. */
const transports = { websocket: '/v1/realtime?', sse: '/v1/events?' }
const over = test.each(Object.keys(transports) as (keyof typeof transports)[])

async function beginOver(transport: keyof typeof transports): Promise<void> {
  await page.goto(`${site.origin}/?transport=${transport}`)
}
/** It was that one all the time. */
function expectOnly(transport: keyof typeof transports): void {
  for (const [each, path] of Object.entries(transports)) {
    expect([each, site.passed.some((line) => line.startsWith(`GET ${path}`))]).toEqual([each, each === transport])
  }
}

/** A reply in two halves; the second comes when the test says so. */
function inTwoHalves(): { open(): void } {
  let open!: () => void
  const gate = new Promise<void>((resolve) => {
    open = resolve
  })
  provider.script([{ text: `${words(0, 40)} ` }, { wait: gate }, { text: words(40, 80) }])
  return { open }
}

async function send(text: string, tab = page): Promise<void> {
  await tab.getByLabel('Message', { exact: true }).fill(text)
  await tab.keyboard.press('Enter')
}

const reply = (tab = page) => tab.locator('article.reply').last()
const replyText = (tab = page) => reply(tab).locator('.reply-text')

async function untilShown(text: string, tab = page): Promise<void> {
  await replyText(tab).getByText(text).waitFor()
}

/** Its stream of events is there. The text alone does not tell: it may all have come with the snapshot before it. */
async function untilLive(): Promise<void> {
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
}

async function untilStatus(status: string, tab = page): Promise<void> {
  await tab.locator(`article.reply[data-status="${status}"]`).last().waitFor()
}

const stored = () => storedOf(page)
const expectShownIsStored = (tab = page) => expectShownIsStoredOn(tab)

declare global {
  interface Window {
    shownTexts: string[]
  }
}

/** Writes down every text that the last reply has on the page from now on, each change that is drawn. */
async function watchTexts(): Promise<void> {
  await page.evaluate(() => {
    window.shownTexts = []
    new MutationObserver(() => {
      const text = [...document.querySelectorAll('article.reply')].at(-1)?.querySelector('.reply-text')?.textContent
      if (text && text !== window.shownTexts.at(-1)) window.shownTexts.push(text)
    }).observe(document.body, { subtree: true, childList: true, characterData: true })
  })
}

/** At no time was there anything but a beginning of what is stored now. */
async function expectOnlyPrefixesShown(): Promise<void> {
  const { messages } = await stored()
  const whole = messages
    .at(-1)!
    .parts.flatMap(({ text }) => (text === undefined ? [] : [text]))
    .join('')
  const texts = await page.evaluate(() => window.shownTexts)
  expect(texts.length).toBeGreaterThan(1)
  expect(texts.filter((text) => !whole.startsWith(text))).toEqual([])
}

test('a message shows at once, is stored, and its reply streams until it reads as it is stored (I7)', async () => {
  const half = inTwoHalves()
  await watchTexts()
  await send('hello there')
  await page.getByText('hello there').first().waitFor()
  await untilShown('word39')
  await page.locator('article.own').getByText('Sent').waitFor()
  expect(await replyText().textContent()).not.toContain('word40')
  expect(await reply().getAttribute('aria-busy')).toBe('true')
  half.open()
  await untilStatus('complete')
  await expectShownIsStored()
  await expectOnlyPrefixesShown()
  await untilLive()
  await page.locator('nav .session').getByText('hello there').first().waitFor()
})

test('the dots and then the text survive a reload in the middle (R0.7, R1.6)', async () => {
  let begin!: () => void
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  let open!: () => void
  const gate = new Promise<void>((resolve) => {
    open = resolve
  })
  provider.script([{ wait: begun }, { text: `${words(0, 40)} ` }, { wait: gate }, { text: words(40, 80) }])
  await send('first')
  await page.getByLabel('A reply is on its way').waitFor()
  await page.locator('article.own').getByText('Sent').waitFor()
  await page.reload()
  await page.getByLabel('A reply is on its way').waitFor()
  begin()
  await untilShown('word39')
  await page.reload()
  await untilShown('word39')
  open()
  await untilStatus('complete')
  await expectShownIsStored()
})

test('who closes the tab and returns after the end finds the whole reply (R1.1)', async () => {
  const half = inTwoHalves()
  await send('I am leaving')
  await untilShown('word10')
  const { hash } = new URL(page.url())
  await page.close()
  half.open()
  await eventually(async () => {
    const answer = await context.request.get(`${site.origin}/v1/sessions/${hash.slice(2)}`)
    return ((await answer.json()) as Stored).messages.at(-1)?.status === 'complete'
  })
  page = await newTab()
  await untilStatus('complete')
  await untilShown('word79')
  await expectShownIsStored()
})

test('two tabs show the same reply, and what one sends the other shows (I5)', async () => {
  const half = inTwoHalves()
  await send('from the first tab')
  await untilShown('word39')
  const second = await newTab()
  await untilShown('word39', second)
  half.open()
  await Promise.all([untilStatus('complete'), untilStatus('complete', second)])
  await Promise.all([expectShownIsStored(), expectShownIsStored(second)])
  provider.script([{ text: words(100, 120) }])
  await send('from the second tab', second)
  await page.locator('article.own').getByText('from the second tab').waitFor()
  await untilShown('word119')
  await expectShownIsStored()
})

over(
  '%s: after a cut in the middle the page comes back by its cursor and nothing is missing or double (I5, R2.7)',
  async (transport) => {
    await beginOver(transport)
    const snapshots: string[] = []
    page.on('request', (request) => {
      if (/\/v1\/sessions\/[^/?]+$/.test(request.url())) snapshots.push(request.url())
    })
    const half = inTwoHalves()
    await watchTexts()
    await send('cut me')
    await untilShown('word39')
    await untilLive()
    expect(site.setDown(true)).toBe(1)
    await page.getByRole('status').getByText('Reconnecting').waitFor()
    half.open()
    site.setDown(false)
    await untilStatus('complete')
    await expectShownIsStored()
    await expectOnlyPrefixesShown()
    await untilLive()

    const again = inTwoHalves()
    await send('and by the panel')
    await page.locator('article.reply').nth(1).locator('.reply-text').getByText('word39').waitFor()
    await page.getByRole('button', { name: 'Cut the connection' }).click()
    await page.getByRole('status').getByText('Reconnecting').waitFor()
    again.open()
    await untilStatus('complete')
    await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
    await expectShownIsStored()
    await page.getByRole('listitem').filter({ hasText: 'Connection cut' }).filter({ hasText: 'back after' }).waitFor()
    expect(snapshots).toHaveLength(1)
    expectOnly(transport)
  },
)

over(
  '%s: a connection that is dead without a word is left, and comes back by its cursor (I5, R2.7)',
  async (transport) => {
    await page.clock.install()
    await beginOver(transport)
    const half = inTwoHalves()
    await watchTexts()
    await send('half open')
    await untilShown('word39')
    await untilLive()
    expect(site.silence()).toBe(1)
    half.open()
    await eventually(async () => (await stored()).messages.at(-1)?.status === 'complete')
    expect(await reply().getAttribute('data-status')).toBe('streaming')
    // After three missed comments, or when it was asked whether it lives and did not say.
    await page.clock.fastForward(46_000)
    await untilStatus('complete')
    await untilLive()
    await expectShownIsStored()
    await expectOnlyPrefixesShown()
    expectOnly(transport)
  },
)

over(
  '%s: a tab that nobody sees leaves its connection to others, and follows on from its cursor when it is seen again (I5)',
  async (transport) => {
    await page.clock.install()
    await beginOver(transport)
    const half = inTwoHalves()
    await send('behind another tab')
    await untilShown('word39')
    await untilLive()
    const show = (isHidden: boolean) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden })
        document.dispatchEvent(new Event('visibilitychange'))
      }, isHidden)
    await show(true)
    await page.clock.fastForward(10_000)
    await show(false)
    expect(site.openStreams()).toBe(1)
    await show(true)
    await page.clock.fastForward(31_000)
    await eventually(async () => site.openStreams() === 0)
    half.open()
    await eventually(async () => (await stored()).messages.at(-1)?.status === 'complete')
    expect(await reply().getAttribute('data-status')).toBe('streaming')
    const loaded = site.passed.filter((line) => /^GET \/v1\/sessions\/[^/?]+$/.test(line)).length
    await show(false)
    await untilStatus('complete')
    expect(site.passed.filter((line) => /^GET \/v1\/sessions\/[^/?]+$/.test(line))).toHaveLength(loaded)
    await expectShownIsStored()
  },
)

test('a session that does not come is left when the network is back, and asked for anew', async () => {
  await send('hello')
  await untilStatus('complete')
  let asked = 0
  await page.route(/\/v1\/sessions\/[^/?]+$/, (route) => (asked++ === 0 ? undefined : route.continue()))
  await page.reload()
  await eventually(async () => asked === 1)
  // What was shown last is there meanwhile.
  await untilStatus('complete')
  await page.evaluate(() => window.dispatchEvent(new Event('online')))
  await untilLive()
})

over(
  '%s: the panel kills the server, and another process takes the reply over while the page watches (I9)',
  async (transport) => {
    await beginOver(transport)
    const { kills } = site
    const half = inTwoHalves()
    await watchTexts()
    await send('kill it')
    await untilShown('word39')
    const asked = provider.nextRequest()
    await page.getByRole('button', { name: 'Kill the server' }).click()
    await asked
    half.open()
    await untilStatus('complete')
    expect(site.kills).toBe(kills + 1)
    await expectShownIsStored()
    await expectOnlyPrefixesShown()
    const steps = page.getByRole('list', { name: 'What happened to the last message' }).locator('.knot-label')
    expect(await steps.allTextContents()).toEqual(['Stored', 'Queued', 'Attempt 1', 'Killed', 'Attempt 2', 'Complete'])
    await page.reload()
    await steps.getByText('Complete').waitFor()
    expect(await steps.allTextContents()).toEqual(['Stored', 'Queued', 'Attempt 1', 'Killed', 'Attempt 2', 'Complete'])
    expectOnly(transport)
  },
)

test('while a message waits behind another the timeline is that of the one being answered', async () => {
  const half = inTwoHalves()
  await send('the first')
  await untilShown('word39')
  await send('the second')
  await page.locator('article.own').getByText('Queued, next in line').waitFor()
  const steps = page.getByRole('list', { name: 'What happened to the last message' }).locator('.knot-label')
  expect(await steps.allTextContents()).toEqual(['Stored', 'Queued', 'Attempt 1', 'now'])
  half.open()
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
  await steps.getByText('Complete').waitFor()
})

test('what people and models write is text: in the message, its title, the list, the heading and the model’s name', async () => {
  const markup = '<img src=x onerror=alert(1)>'
  provider.script([{ text: `${markup} [a](javascript:alert(1)) done` }])
  const dialogs: string[] = []
  page.on('dialog', (dialog) => {
    dialogs.push(dialog.message())
    void dialog.dismiss()
  })
  await send(markup)
  await untilStatus('complete')
  await page.getByRole('heading', { name: markup }).waitFor()
  await page.locator('nav .session').getByText(markup).first().waitFor()
  await page.getByRole('button', { name: `Rename “${markup}”` }).waitFor({ state: 'attached' })
  await reply().getByText(markup).waitFor()
  await eventually(async () => (await page.title()).includes(markup))
  expect(await page.locator('img, a[href^="javascript"]').count()).toBe(0)
  expect(dialogs).toEqual([])
})

test('a chat that is not there says so, and keeps what is written in it', async () => {
  provider.script([{ text: 'fine' }])
  await page.goto(`${site.origin}/#/nobody-knows-it`)
  await page.getByRole('heading', { name: 'No such chat' }).waitFor()
  // To a guest who is nobody so far it is as good as a new one.
  await send('the first of mine')
  await untilStatus('complete')
  await page.goto(`${site.origin}/#/nobody-knows-this-either`)
  await page.getByRole('heading', { name: 'No such chat' }).waitFor()
  await send('is it kept')
  const own = page.locator('article.own').filter({ hasText: 'is it kept' })
  await own.getByRole('alert').getByText('Not sent. There is nothing here that you may see.').waitFor()
  await page.reload()
  await own.getByRole('alert').waitFor()
  await own.getByRole('button', { name: 'Withdraw' }).click()
  await eventually(async () => (await page.getByLabel('Message', { exact: true }).inputValue()) === 'is it kept')
  await own.waitFor({ state: 'detached' })
})

test('a message whose acknowledgement is lost is sent again with the same id and is there once (I1)', async () => {
  provider.script([{ text: words(0, 20) }])
  await send('the first')
  await untilStatus('complete')
  const lost = site.loseAnswer()
  await send('say it once')
  await lost
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
  await eventually(async () => site.passed.filter((line) => /^POST .*\/messages$/.test(line)).length >= 3)
  await page.getByText('Sending…').waitFor({ state: 'detached' })
  expect((await stored()).messages.filter(({ role }) => role === 'user')).toHaveLength(2)
  await expectShownIsStored()
})

test('a message written while the server is away says that it waits, over a reload too, and arrives once (I16)', async () => {
  provider.script([{ text: words(0, 20) }])
  await send('before')
  await untilStatus('complete')
  site.setDown(true)
  await send('while it is away')
  await page.getByText('Waits for the network').waitFor()
  site.setDown(false)
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
  await expectShownIsStored()

  await page.route('**/messages', (route) => route.abort())
  await send('and over a reload')
  await page.getByText('Waits for the network').waitFor()
  await page.reload()
  await page.locator('article.own').getByText('and over a reload').waitFor()
  await page.getByText('Waits for the network').waitFor()
  await page.unroute('**/messages')
  await page.locator('article.reply[data-status="complete"]').nth(2).waitFor()
  expect((await stored()).messages.filter(({ role }) => role === 'user')).toHaveLength(3)
  await expectShownIsStored()
})

test('two tabs that wait to send do not forget each other’s message, whichever is reloaded (I16)', async () => {
  provider.script(() => [{ text: words(0, 20) }])
  await send('before')
  await untilStatus('complete')
  const second = await newTab()
  await untilStatus('complete', second)
  await context.route('**/messages', (route) => route.abort())
  await send('from the first tab')
  await send('from the second tab', second)
  for (const tab of [page, second]) await tab.getByText('Waits for the network').first().waitFor()
  await second.close()
  await page.reload()
  await page.locator('article.own').getByText('from the second tab').waitFor()
  await page.locator('article.own').getByText('from the first tab').waitFor()
  await context.unroute('**/messages')
  await page.locator('article.reply[data-status="complete"]').nth(2).waitFor()
  expect((await stored()).messages.filter(({ role }) => role === 'user')).toHaveLength(3)
  await expectShownIsStored()
})

test('a message that is refused when its chat is no longer shown is in its chat, which the list names (I16)', async () => {
  let refuse!: () => void
  const gate = new Promise<void>((resolve) => {
    refuse = resolve
  })
  await page.route('**/messages', async (route) => {
    await gate
    await route.continue()
  })
  // For the server; the page counts characters.
  const tooLong = 'ü'.repeat(200_000)
  await send(tooLong)
  await page.getByText('Sending…').waitFor()
  await page.getByRole('button', { name: 'New chat' }).click()
  await page.getByText('You are free to leave.').waitFor()
  refuse()
  await page.locator('nav .session').getByText('Not sent').waitFor()
  await page.locator('nav .session-open').click()
  await page.locator('article.own').getByRole('alert').getByText('Not sent.').waitFor()
  expect(await page.locator('article.own .own-text').textContent()).toBe(tooLong)
})

test('the first message of a chat waits over a reload while nothing answers, and makes the chat when it can (I16)', async () => {
  provider.script([{ text: words(0, 20) }])
  await page.route('**/v1/**', (route) => route.abort())
  await send('is anybody there')
  await page.getByText('Waits for the network').waitFor()
  await page.reload()
  await page.locator('article.own').getByText('is anybody there').waitFor()
  await page.getByText('Waits for the network').waitFor()
  await page.unroute('**/v1/**')
  await untilStatus('complete')
  expect((await stored()).messages).toHaveLength(2)
  await expectShownIsStored()
})

test('a failed attempt counts down to the next one; a failed reply says what happened and keeps the message (R0.4, R2.6)', async () => {
  // By what it is asked, not by the number of the request: another test's attempt may still be under way.
  let asked = 0
  const failsTwice = ({ body }: ProviderRequest) =>
    JSON.stringify(body).includes('this will fail') && asked++ === 0
      ? [{ status: 503, headers: { 'retry-after': '3' } }]
      : [{ status: 400, body: { error: {} } }]
  provider.script(failsTwice)
  await send('this will fail')
  await reply()
    .getByText(/Attempt 1 failed, again in [123] s/)
    .waitFor()
  await untilStatus('failed')
  await page.getByText('Change the message and send it as a new one. Your message is kept.').waitFor()
  await expectShownIsStored()
  await page.reload()
  await page.getByText('Change the message and send it as a new one. Your message is kept.').waitFor()
})

test('the composer: Shift+Enter is a new line, a draft stays per chat, a refused text is changed or taken back', async () => {
  provider.script([{ text: 'fine' }])
  const composer = page.getByLabel('Message', { exact: true })
  await composer.fill('line one')
  await page.keyboard.press('Shift+Enter')
  await page.keyboard.type('line two')
  await page.keyboard.press('Enter')
  await untilStatus('complete')
  expect((await stored()).messages[0]?.parts[0]?.text).toBe('line one\nline two')
  await expectShownIsStored()

  await composer.fill('a draft')
  await page.getByRole('button', { name: 'New chat' }).click()
  expect(await composer.inputValue()).toBe('')
  await composer.fill('a draft of the new one')
  await page.locator('nav .session-open').click()
  await eventually(async () => (await composer.inputValue()) === 'a draft')
  await page.reload()
  await eventually(async () => (await composer.inputValue()) === 'a draft')
  await page.getByRole('button', { name: 'New chat' }).click()
  await eventually(async () => (await composer.inputValue()) === 'a draft of the new one')

  // Just so: the browser takes seconds for such a word.
  const tooLong = 'x'.repeat(250_001)
  await composer.fill(tooLong)
  await page.keyboard.press('Enter')
  const refused = page.locator('article.own').filter({ has: page.getByRole('alert') })
  await refused.getByText('Not sent.').waitFor()
  await refused.getByRole('button', { name: 'Edit message' }).click()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('short enough')
  await page.keyboard.press('Enter')
  await untilStatus('complete')
  await expectShownIsStored()

  await composer.fill(tooLong)
  await page.keyboard.press('Enter')
  await refused.getByRole('button', { name: 'Withdraw' }).click()
  await eventually(async () => (await composer.inputValue()) === tooLong)
})

test('who reads the end still reads it when the text grows or the phone is turned; who has scrolled up stays', async () => {
  provider.script([{ text: Array.from({ length: 60 }, (_, at) => `Paragraph ${at} ${words(0, 30)}`).join('\n\n') }])
  await send('a long one')
  await untilStatus('complete')
  const atEnd = () => page.locator('.messages').evaluate((it) => it.scrollHeight - it.scrollTop - it.clientHeight < 2)
  for (const [width, height] of [
    [390, 844],
    [844, 390],
    [390, 500],
    [1280, 800],
  ] as const) {
    await page.setViewportSize({ width, height })
    await eventually(atEnd)
    expect(await page.getByRole('button', { name: 'To the latest message' }).count()).toBe(0)
  }
  const field = page.getByLabel('Message', { exact: true })
  await field.fill('so many words that they take more than one line of a phone')
  await page.setViewportSize({ width: 390, height: 800 })
  await eventually(() => field.evaluate((it) => it.scrollHeight <= it.clientHeight && it.clientHeight > 50))
  await page.setViewportSize({ width: 1280, height: 800 })
  await eventually(() => field.evaluate((it) => it.clientHeight < 50))
  // The text grows by more than a little between a scroll and the word of it.
  await page.locator('.messages').evaluate((it) => {
    const more = document.createElement('div')
    more.className = 'welcome'
    more.textContent = 'more '.repeat(1_000)
    it.firstElementChild?.append(more)
    it.dispatchEvent(new Event('scroll'))
  })
  await eventually(atEnd)
  await page.locator('.messages').evaluate((it) => it.scrollTo({ top: 300 }))
  await page.getByRole('button', { name: 'To the latest message' }).waitFor()
  await page.setViewportSize({ width: 1280, height: 700 })
  expect(await page.locator('.messages').evaluate((it) => it.scrollTop)).toBe(300)
  await page.getByRole('button', { name: 'To the latest message' }).click()
  await eventually(atEnd)
})

test('on a phone nothing is wider than the page, words in tables stay whole, and the open list keeps the keyboard', async () => {
  await page.setViewportSize({ width: 390, height: 844 })
  const name = 'n'.repeat(400)
  provider.script([
    { text: `| Step | Where | When |\n|---|---|---|\n| acceptance | ${'in Postgres '.repeat(4)} | before |\n\n` },
    { text: `\`\`\`${name}\n${'code '.repeat(60)}\n\`\`\`\n\nA${name}` },
  ])
  await send(`W${'w'.repeat(400)}`)
  await untilStatus('complete')
  await reply().locator('table').waitFor()
  const tooWide = () =>
    page.evaluate(() =>
      [...document.querySelectorAll('body *')]
        .filter((each) => !each.closest('pre, table, nav, .sr-only') && each.getBoundingClientRect().right > innerWidth)
        .map((each) => each.outerHTML.slice(0, 100)),
    )
  expect(await tooWide()).toEqual([])
  // One line high: the word was not broken.
  const cell = page.locator('td').getByText('acceptance')
  const line = await cell.evaluate((it) => Number.parseFloat(getComputedStyle(it).lineHeight))
  const words = await cell.evaluate((it) => {
    const range = document.createRange()
    range.selectNodeContents(it)
    return range.getBoundingClientRect().height
  })
  expect(words).toBeLessThan(line * 1.5)
  await page.getByRole('button', { name: 'Show chats' }).click()
  const isInList = () => page.evaluate(() => document.activeElement?.closest('nav, body')?.localName)
  for (let press = 0; press < 8; press++) {
    await page.keyboard.press('Tab')
    expect(await page.evaluate(() => document.activeElement?.closest('main, aside') === null)).toBe(true)
  }
  expect(['nav', 'body']).toContain(await isInList())
  await page.keyboard.press('Escape')
  await page.locator('nav.is-open').waitFor({ state: 'detached' })
  await page.locator('[aria-label="Show chats"]:focus').waitFor()
})

test('chats beyond the first page are listed when they are asked for, and stay when the list is looked at again', async () => {
  provider.script([{ text: 'fine' }])
  await send('the newest')
  await untilStatus('complete')
  const titles = Array.from({ length: 40 }, (_, at) => `Chat ${at}`)
  for (const title of titles) {
    await context.request.post(`${site.origin}/v1/sessions`, { data: { title } })
  }
  await page.getByText('Chat 39', { exact: true }).waitFor()
  // Those that came to be meanwhile are all listed. A page that has just come has the first of them.
  await page.reload()
  await page.getByText('Chat 39', { exact: true }).waitFor()
  const listed = () => page.locator('nav .session-open .font-medium').allTextContents()
  expect((await listed()).length).toBeLessThan(titles.length)
  await page.getByRole('button', { name: 'Older chats' }).click()
  await page.locator('nav').getByText('the newest').first().waitFor()
  const all = [...titles.toReversed(), 'the newest']
  expect(await listed()).toEqual(all)
  await page.getByRole('button', { name: 'Delete “Chat 39”' }).press('Enter')
  await page.getByRole('button', { name: 'Delete', exact: true }).click()
  await page.getByText('Chat 39', { exact: true }).waitFor({ state: 'detached' })
  expect(await listed()).toEqual(all.slice(1))
})

test('chats are listed, renamed and deleted by keyboard alone', async () => {
  provider.script([{ text: 'fine' }])
  await send('one to keep')
  await untilStatus('complete')
  await page.locator('nav .session').getByText('one to keep').first().waitFor()
  await page.getByRole('button', { name: 'Rename “one to keep”' }).focus()
  await page.keyboard.press('Enter')
  await page.keyboard.type('A better name')
  await page.keyboard.press('Enter')
  await page.getByRole('heading', { name: 'A better name' }).waitFor()
  await page.locator('.session-open:focus').waitFor()
  site.setDown(true)
  await page.getByRole('button', { name: 'Rename “A better name”' }).press('Enter')
  await page.keyboard.type('Never heard')
  await page.keyboard.press('Enter')
  await page.getByRole('alert').getByText('Not renamed. The server does not answer.').waitFor()
  await page.keyboard.press('Escape')
  site.setDown(false)
  await page.getByRole('button', { name: 'Delete “A better name”' }).focus()
  await page.keyboard.press('Enter')
  await page.getByRole('button', { name: 'Keep' }).waitFor()
  await page.keyboard.press('Shift+Tab')
  await page.keyboard.press('Enter')
  await page.getByText('Your chats will be listed here.').waitFor()
  await page.getByText('You are free to leave.').waitFor()
})

test('a reply is read out by finished paragraphs, each once, and not letter by letter', async () => {
  let open!: () => void
  const gate = new Promise<void>((resolve) => {
    open = resolve
  })
  provider.script([{ text: 'The first one.\n\nThe second' }, { wait: gate }, { text: ' one.\n\n```\ncode\n```' }])
  const log = page.getByRole('log').locator('p')
  await send('read to me')
  await log.getByText('The first one.').waitFor()
  expect(await log.allTextContents()).toEqual(['A reply is on its way.', 'The first one.'])
  open()
  await log.getByText('The reply is complete.').waitFor()
  expect(await log.allTextContents()).toEqual([
    'A reply is on its way.',
    'The first one.',
    'The second one.',
    'A block of code.',
    'The reply is complete.',
  ])
})

test('axe finds nothing serious: empty, streaming, complete, failed, on a phone and wide, light and dark', async () => {
  const found: string[] = []
  const check = async (state: string) => found.push(...(await faultsOf(page, state)))
  await page.getByText('You are free to leave.').waitFor()
  await check('empty')
  const half = inTwoHalves()
  await send('hello')
  await untilShown('word39')
  await check('streaming')
  half.open()
  await untilStatus('complete')
  provider.script([
    { text: '# Title\n\nText, `code` and a [link](https://example.com).\n\n> quoted\n\n```ts\nlet a = 1\n```\n\n' },
    { text: '| a | b |\n|---|---|\n| 1 | 2 |\n\n![a picture](https://example.com/x.png)\n\n- [x] done' },
  ])
  await send('markdown')
  await reply().locator('table').waitFor()
  await untilStatus('complete')
  await check('complete')
  provider.script([{ status: 400, body: { error: {} } }])
  await send('fail')
  await untilStatus('failed')
  await check('failed')
  expect(found).toEqual([])
})

test('the first load is under 200 KB gzipped, all of it files of our own', async () => {
  const html = await readFile(join(stage.assets.dir, 'index.html'), 'utf8')
  expect(html).not.toMatch(/<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=/i)
  const first = [...html.matchAll(/(?:src|href)="\/([^"]+)"/g)].map(([, path]) => path!)
  expect(first.length).toBeGreaterThan(1)
  const sizes = await Promise.all(
    first.map(async (path) => gzipSync(await readFile(join(stage.assets.dir, path))).length),
  )
  const total = sizes.reduce((sum, size) => sum + size, gzipSync(html).length)
  expect(total).toBeLessThan(200 * 1024)
  // The renderer is among those that come later.
  expect((await readdir(join(stage.assets.dir, 'assets'))).some((name) => name.startsWith('markdown-'))).toBe(true)
  expect(html).not.toContain('markdown-')
})
