/** Pages with `useChat` of both majors, in Chromium, on an app with Holdfast in it, through a proxy that cuts. */
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { expect } from 'vitest'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { createHoldfast, type Holdfast, type Reply } from '../../src/index.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { type Assets, buildPage, startBrowser } from '../web/support.ts'
import { pages } from './pages.mjs'

const config = fileURLToPath(new URL('../../web/test/use-chat/vite.config.ts', import.meta.url))

/** The page for one major, with React as it is in development. `root`: another page, built with the same settings. */
export function buildFor(major: SdkMajor, root?: string): Promise<Assets> {
  return buildPage(config, {
    NODE_ENV: 'development',
    AI_SDK_MAJOR: String(major),
    ...(root === undefined ? {} : { PAGE_ROOT: root }),
  })
}

export type Built = { browser: Browser; dirs: Record<SdkMajor, string>; remove(): Promise<void> }

export async function buildAll(): Promise<Built> {
  const [browser, six, seven] = await Promise.all([startBrowser(), buildFor(6), buildFor(7)])
  return {
    browser,
    dirs: { 6: six.dir, 7: seven.dir },
    remove: async () => void (await Promise.all([browser.close(), six.remove(), seven.remove()])),
  }
}

export type Site = { chat: Holdfast; proxy: TcpProxy; origin: string; close(): Promise<void> }

export async function openSite(dirs: Built['dirs'], reply: Reply): Promise<Site> {
  const database = await freshDatabase(18)
  const chat = createHoldfast({
    database: database.url,
    authenticate: () => ({ userId: 'ann' }),
    limits: { sendsPerMinute: 0 },
    log: () => undefined,
    drainMs: 0,
    reply,
  })
  const { url } = await chat.listen(
    0,
    '127.0.0.1',
    pages(dirs, () => chat),
  )
  const proxy = await proxyOf(url)
  return {
    chat,
    proxy,
    origin: originOf(proxy),
    async close() {
      await proxy.close()
      await chat.close()
      await database.drop()
    },
  }
}

export function proxyOf(url: string): Promise<TcpProxy> {
  const { hostname, port } = new URL(url)
  return startProxy({ target: { host: hostname, port: Number(port) } })
}
export const originOf = ({ host, port }: TcpProxy): string => `http://${host}:${port}`

/** One chat in one browser: its tabs, and what they asked the server and complained about. */
export type Visit = {
  id: string
  tab: Page
  /** `METHOD path` of what all tabs asked of `/api/chat`. */
  asked: string[]
  newTab(): Promise<Page>
  close(): Promise<void>
}

export type VisitSettings = { origin: string; major: SdkMajor; id?: string; options?: string }

/** Pages that were cut off complain about that; about nothing else. */
const aboutNetwork = /net::ERR_|Failed to load resource|^WebSocket connection to/

export async function visit(
  browser: Browser,
  { origin, major, id = randomUUID(), options = '' }: VisitSettings,
): Promise<Visit> {
  const context: BrowserContext = await browser.newContext()
  const asked: string[] = []
  const complaints: string[] = []
  const newTab = async () => {
    const tab = await context.newPage()
    tab.on('pageerror', (error) => complaints.push(String(error)))
    tab.on('console', (line) => {
      if (line.type() === 'error' && !aboutNetwork.test(line.text())) complaints.push(line.text())
    })
    tab.on('request', (request) => {
      const { pathname } = new URL(request.url())
      if (pathname.startsWith('/api/chat')) asked.push(`${request.method()} ${pathname.replace(id, ':id')}`)
    })
    await tab.goto(`${origin}/${major}/?id=${id}${options}`)
    await untilStatus(tab, 'ready', 'streaming', 'submitted', 'error')
    return tab
  }
  return {
    id,
    tab: await newTab(),
    asked,
    newTab,
    async close() {
      await context.close()
      expect(complaints).toEqual([])
    },
  }
}

export async function untilStatus(tab: Page, ...statuses: string[]): Promise<void> {
  await tab
    .getByRole('status')
    .getByText(new RegExp(`^(${statuses.join('|')})$`))
    .waitFor()
}

/** The last reply reads so. */
export async function untilShown(tab: Page, text: string): Promise<void> {
  await tab.locator('li[data-role=assistant]').last().getByText(text, { exact: true }).waitFor()
}

export async function say(tab: Page, text: string): Promise<void> {
  await tab.getByLabel('Message').fill(text)
  await tab.keyboard.press('Enter')
}

export async function press(tab: Page, button: string): Promise<void> {
  await tab.getByRole('button', { name: button, exact: true }).click()
}

export type Shown = { id: string; role: string; text: string }

/** In the order of the page. */
export function shownOn(tab: Page): Promise<Shown[]> {
  return tab
    .locator('li')
    .evaluateAll((items) =>
      items.map((item) => ({ id: item.dataset.id ?? '', role: item.dataset.role ?? '', text: item.textContent ?? '' })),
    )
}

/** The texts that each reply was shown with since the page was loaded. */
export function textsShownOn(tab: Page): Promise<Record<string, string[]>> {
  return tab.evaluate(() => (window as unknown as { shown: Record<string, string[]> }).shown)
}

export async function storedIn(origin: string, id: string): Promise<(Shown & { status: string })[]> {
  const response = await fetch(`${origin}/v1/sessions/${id}`)
  if (!response.ok) return []
  type Stored = { id: string; role: string; status: string; parts: { type: string; text?: string }[] }
  const { messages } = (await response.json()) as { messages: Stored[] }
  return messages.map(({ id: messageId, role, status, parts }) => ({
    id: messageId,
    role,
    status,
    text: parts.map(({ type, text }) => (type === 'text' ? text : '')).join(''),
  }))
}
