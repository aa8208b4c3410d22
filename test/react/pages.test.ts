/** `holdfast/react` in Chromium, in StrictMode, on an app with Holdfast in it, over each kind of connection (R0.5, R0.7, R2.2, R2.5). */
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { createHoldfast, type Holdfast } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { pages } from '../use-chat/pages.mjs'
import { type Assets, buildPage, startBrowser } from '../web/support.ts'

const config = fileURLToPath(new URL('../../web/test/react/vite.config.ts', import.meta.url))
declare global {
  interface Window {
    told: string[]
    shown: Record<string, string[]>
  }
}

const transports = ['websocket', 'sse', 'poll'] as const

let assets: Assets
let browser: Browser
let database: Awaited<ReturnType<typeof freshDatabase>>
let chat: Holdfast
let proxy: TcpProxy
let origin: string
let words: { say(count: number): void }
let context: BrowserContext
let complaints: string[]

beforeAll(async () => {
  ;[assets, browser, database] = await Promise.all([
    buildPage(config, { NODE_ENV: 'development' }),
    startBrowser(),
    freshDatabase(18),
  ])
  let allowed = 0
  const waiting: (() => void)[] = []
  words = {
    say(count) {
      allowed += count
      for (const resolve of waiting.splice(0)) resolve()
    },
  }
  chat = createHoldfast({
    database: database.url,
    authenticate: () => ({ userId: 'ann' }),
    limits: { sendsPerMinute: 0 },
    log: () => undefined,
    drainMs: 0,
    async *reply({ message }) {
      const said = textOf(message.parts as Parameters<typeof textOf>[0])
      if (said !== 'slow') return yield `Re ${said}`
      for (let word = 0; word < 6; word++) {
        while (allowed === 0) await new Promise<void>((resolve) => waiting.push(resolve))
        allowed--
        yield `${word} `
      }
    },
  })
  const { url } = await chat.listen(
    0,
    '127.0.0.1',
    pages({ page: assets.dir }, () => chat),
  )
  const { hostname, port } = new URL(url)
  proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  origin = `http://${proxy.host}:${proxy.port}`
})
afterAll(async () => {
  await browser.close()
  await proxy.close()
  await chat.close()
  await Promise.all([assets.remove(), database.drop()])
})
beforeEach(async () => {
  complaints = []
  context = await browser.newContext()
})
afterEach(async () => {
  proxy.accept()
  await context.close()
  expect(complaints).toEqual([])
})

async function open(id: string, transport: string, within = context): Promise<Page> {
  const page = await within.newPage()
  page.on('pageerror', (error) => complaints.push(String(error)))
  await page.goto(`${origin}/page/?id=${id}&transport=${transport}`)
  return page
}
const sendOn = async (page: Page, text: string) => {
  await page.getByLabel('Message').fill(text)
  await page.getByRole('button', { name: 'Send' }).click()
}
const shownOn = (page: Page) => page.locator('li').allTextContents()
const untilShown = (page: Page, ...shown: string[]) =>
  eventually(async () => (await shownOn(page)).join('|') === shown.join('|'))
const stateOf = async (page: Page) =>
  JSON.parse((await page.locator('#state').textContent())!) as Record<string, unknown>
const untilState = (page: Page, state: Record<string, unknown>) =>
  eventually(async () => {
    const now = await stateOf(page)
    return Object.entries(state).every(([key, value]) => now[key] === value)
  })
/** Each text that a message was shown with is the beginning of the next (I7). */
async function expectSteady(page: Page): Promise<void> {
  for (const texts of Object.values(await page.evaluate(() => window.shown))) {
    for (const [at, text] of texts.entries()) if (at > 0) expect(text.startsWith(texts[at - 1]!)).toBe(true)
  }
}

describe.each(transports)('over %s', (transport) => {
  test('a new chat begins, streams, is left and come back to with its dots, on two tabs', async () => {
    const id = randomUUID()
    const page = await open(id, transport)
    await untilState(page, { phase: 'missing' })
    await sendOn(page, 'slow')
    await untilShown(page, 'user: slow', 'assistant: ')
    const other = await open(id, transport)
    words.say(2)
    for (const tab of [page, other]) await untilShown(tab, 'user: slow', 'assistant: 0 1 ')
    expect(await stateOf(page)).toMatchObject({ isLive: true, isBusy: true, transport, unsent: 0 })
    await page.getByRole('button', { name: 'Leave' }).click()
    words.say(2)
    await page.getByRole('button', { name: 'Come back' }).click()
    await page.locator('#dots').waitFor()
    for (const tab of [page, other]) await untilShown(tab, 'user: slow', 'assistant: 0 1 2 3 ')
    await page.reload()
    await untilShown(page, 'user: slow', 'assistant: 0 1 2 3 ')
    proxy.cutAll()
    words.say(2)
    for (const tab of [page, other]) {
      await untilShown(tab, 'user: slow', 'assistant: 0 1 2 3 4 5 ')
      await untilState(tab, { isBusy: false })
      await expectSteady(tab)
    }
    expect(await other.evaluate(() => window.told)).toHaveLength(1)
    await eventually(async () => (await page.locator('#sessions').textContent())?.includes('0 1 2 3 4 5') === true)
  })

  test('written without a network, reloaded, and the tab gone: it is sent once when the network is back', async () => {
    const id = randomUUID()
    const page = await open(id, transport)
    await untilState(page, { phase: 'missing' })
    await sendOn(page, 'first')
    await untilShown(page, 'user: first', 'assistant: Re first')
    const other = await open(id, transport)
    await untilShown(other, 'user: first', 'assistant: Re first')
    await context.setOffline(true)
    await sendOn(page, 'in the tunnel')
    await page.locator('li[data-delivery="waiting"]').waitFor()
    await page.close()
    // Kept on the device, and shown by the other tab.
    await other.locator('li[data-delivery="waiting"]').waitFor()
    await context.setOffline(false)
    await untilShown(other, 'user: first', 'assistant: Re first', 'user: in the tunnel', 'assistant: Re in the tunnel')
    await untilState(other, { unsent: 0 })
    const { data } = await chat.messages.list(id)
    expect(data.map(({ role, parts }) => `${role}: ${textOf(parts as Parameters<typeof textOf>[0])}`)).toEqual(
      await shownOn(other),
    )
  })
})
