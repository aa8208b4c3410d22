/** `holdfast/react` rendered by a server in Node, where nothing may begin, and hydrated in Chromium (R0.7). */
import { randomUUID } from 'node:crypto'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { createElement } from 'react'
import { renderToPipeableStream, renderToString } from 'react-dom/server'
import { expect, onTestFinished, test, vi } from 'vitest'
import { createClient, memoryStorage, type Storage } from '../../src/client/client.ts'
import { createHoldfast } from '../../src/index.ts'
import { EveryHook } from '../../web/test/react/every-hook.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { pages } from '../use-chat/pages.mjs'
import { buildPage, startBrowser } from '../web/support.ts'

const config = fileURLToPath(new URL('../../web/test/react/vite.config.ts', import.meta.url))
const unescaped = (markup: string) => markup.replaceAll('&quot;', '"')
const nothingLoaded =
  '<p id="state">{"phase":"loading","isLive":false,"messages":[],"cached":[],"sessions":0,"sending":0,"error":null,"unsent":0,"connection":"idle","people":[0,0,0]}</p>'

/** What a client and a render begin: their calls of what this machine has. */
function watchBeginnings() {
  const begun: string[] = []
  const spy = (name: 'fetch' | 'setTimeout' | 'setInterval') =>
    vi.spyOn(globalThis, name).mockImplementation((() => begun.push(name)) as never)
  for (const name of ['fetch', 'setTimeout', 'setInterval'] as const) spy(name)
  const opened = (name: string) =>
    class {
      constructor() {
        begun.push(name)
      }
    }
  // As newer versions of Node have them.
  vi.stubGlobal('navigator', { locks: { request: () => begun.push('locks') } })
  for (const name of ['BroadcastChannel', 'WebSocket']) vi.stubGlobal(name, opened(name))
  const kept = memoryStorage()
  const seen = <Call extends (...args: never[]) => unknown>(name: string, call: Call) =>
    ((...args: never[]) => {
      begun.push(`storage.${name}`)
      return call(...args)
    }) as Call
  const storage: Storage = {
    ...kept,
    entries: seen('entries', kept.entries),
    set: seen('set', kept.set),
    remove: seen('remove', kept.remove),
  }
  const end = () => {
    vi.restoreAllMocks()
    vi.unstubAllGlobals()
  }
  onTestFinished(end)
  return { begun, storage, end }
}

test('a client that a server’s module makes, and every hook that it renders, begin nothing', async () => {
  const { begun, storage, end } = watchBeginnings()
  const client = createClient({ url: 'http://localhost:1', storage })
  const element = createElement(EveryHook, { client, id: 'a-session' })
  const first = renderToString(element)
  const second = renderToString(element)
  const { pipe } = renderToPipeableStream(element)
  const streamed = await text(pipe(new PassThrough()))
  // What they left for later would have come by now.
  await new Promise((resolve) => setImmediate(resolve))
  end()
  expect(begun).toEqual([])
  for (const markup of [first, second, streamed]) expect(unescaped(markup)).toBe(nothingLoaded)
})

test('what a server rendered is hydrated by a client that knows more by then, without a mismatch', async () => {
  const [assets, browser, database] = await Promise.all([
    buildPage(config, { NODE_ENV: 'development' }),
    startBrowser(),
    freshDatabase(18),
  ])
  const chat = createHoldfast({
    database: database.url,
    authenticate: () => ({ userId: 'ann' }),
    log: () => undefined,
    drainMs: 0,
    reply: () => 'hello',
  })
  onTestFinished(async () => {
    await browser.close()
    await chat.close()
    await Promise.all([assets.remove(), database.drop()])
  })
  const { url } = await chat.listen(
    0,
    '127.0.0.1',
    pages({ page: assets.dir }, () => chat),
  )
  const id = randomUUID()
  await chat.sessions.create({ id, userId: 'ann' })
  await chat.send(id, { userId: 'ann', text: 'hi', waitMs: 20_000 })

  const client = createClient()
  const markup = renderToString(createElement(EveryHook, { client, id }))
  client.close()
  const page = await browser.newPage()
  const complaints: string[] = []
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text())
  })
  await page.addInitScript((made) => {
    window.markup = made
  }, markup)
  await page.goto(`${url}/page/?id=${id}`)
  const state = async () => (await page.locator('#state').textContent({ timeout: 20_000 })) ?? ''
  await eventually(async () => (await state()).includes('"cached":["hi","hello"]'))
  expect(JSON.parse(await state())).toMatchObject({ phase: 'ready', messages: ['hi', 'hello'], sessions: 1 })
  expect([...complaints, ...(await page.evaluate(() => window.told))]).toEqual([])
})

declare global {
  interface Window {
    markup?: string
    told: string[]
  }
}
