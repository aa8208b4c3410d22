/** What the tests of `holdfast/react` share: an app with Holdfast in it, behind a proxy that cuts, and Chromium. */
import { fileURLToPath } from 'node:url'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { expect } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { createHoldfast, type Holdfast } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { pages } from '../use-chat/pages.mjs'
import { buildPage, startBrowser } from '../web/support.ts'

const config = fileURLToPath(new URL('../../web/test/react/vite.config.ts', import.meta.url))
declare global {
  interface Window {
    told: string[]
    shown: Record<string, string[]>
  }
}

export const transports = ['websocket', 'sse', 'poll'] as const

export type Scene = {
  chat: Holdfast
  database: string
  proxy: TcpProxy
  browser: Browser
  /** Lets a reply to `slow` say so many of its six words. */
  say(count: number): void
  /** What went wrong in the page is told to `complaints`. */
  open(context: BrowserContext, id: string, transport: string, complaints: string[]): Promise<Page>
  openIn(page: Page, id: string, transport: string, complaints: string[]): Promise<void>
  close(): Promise<void>
}

export async function openScene(): Promise<Scene> {
  const [assets, browser, database] = await Promise.all([
    buildPage(config, { NODE_ENV: 'development' }),
    startBrowser(),
    freshDatabase(18),
  ])
  let allowed = 0
  const waiting: (() => void)[] = []
  const chat = createHoldfast({
    database: database.url,
    authenticate: ({ headers }) => ({ userId: headers.get('x-user') ?? 'ann' }),
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
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  const openIn: Scene['openIn'] = async (page, id, transport, complaints) => {
    page.on('pageerror', (error) => complaints.push(String(error)))
    await page.goto(`http://${proxy.host}:${proxy.port}/page/?id=${id}&transport=${transport}`)
  }
  return {
    ...{ chat, proxy, browser, database: database.url },
    say(count) {
      allowed += count
      for (const resolve of waiting.splice(0)) resolve()
    },
    async open(context, id, transport, complaints) {
      const page = await context.newPage()
      await openIn(page, id, transport, complaints)
      return page
    },
    openIn,
    async close() {
      await browser.close()
      await proxy.close()
      await chat.close()
      await Promise.all([assets.remove(), database.drop()])
    },
  }
}

export const sendOn = async (page: Page, text: string) => {
  await page.getByLabel('Message').fill(text)
  await page.getByRole('button', { name: 'Send' }).click()
}
export const shownOn = (page: Page) => page.locator('li').allTextContents()
export const untilShown = (page: Page, ...shown: string[]) =>
  eventually(async () => (await shownOn(page)).join('|') === shown.join('|'))
export const stateOf = async (page: Page) =>
  JSON.parse((await page.locator('#state').textContent())!) as Record<string, unknown>
export const untilState = (page: Page, state: Record<string, unknown>) =>
  eventually(async () => {
    const now = await stateOf(page)
    return Object.entries(state).every(([key, value]) => now[key] === value)
  })
/** Each text that a message was shown with is the beginning of the next (I7). */
export async function expectSteady(page: Page): Promise<void> {
  for (const texts of Object.values(await page.evaluate(() => window.shown))) {
    for (const [at, text] of texts.entries()) if (at > 0) expect(text.startsWith(texts[at - 1]!)).toBe(true)
  }
}

/** As where its process runs out of memory. */
export async function crash(page: Page): Promise<void> {
  const session = await page.context().newCDPSession(page)
  const crashed = page.waitForEvent('crash')
  session.send('Page.crash').catch(() => undefined)
  await crashed
}
