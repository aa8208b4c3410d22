/** Tabs of one user share a stream, or long polls; each goes on, whichever of them is closed, crashes or stands still (I5, I7). */
import { randomUUID } from 'node:crypto'
import type { BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { gate } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { crash, expectSteady, openScene, type Scene, sendOn, stateOf, untilShown, untilState } from './scene.ts'

let scene: Scene
let context: BrowserContext
let complaints: string[]

beforeAll(async () => {
  scene = await openScene()
})
afterAll(() => scene.close())
beforeEach(async () => {
  complaints = []
  context = await scene.browser.newContext()
})
afterEach(async () => {
  await context.close()
  expect(complaints).toEqual([])
})

/** Requests for events that are open in each tab. */
function countOpen(tab: Page): () => number {
  const open = new Set<unknown>()
  tab.on('request', (request) => {
    if (request.url().includes('/v1/events?')) open.add(request)
  })
  tab.on('requestfinished', (request) => open.delete(request))
  tab.on('requestfailed', (request) => open.delete(request))
  return () => open.size
}
type Tab = { page: Page; open(): number }
async function openTabs(id: string, transport: string, count: number): Promise<Tab[]> {
  const tabs: Tab[] = []
  for (let at = 0; at < count; at++) {
    const page = await context.newPage()
    const open = countOpen(page)
    await scene.openIn(page, id, transport, complaints)
    await untilState(page, { connection: 'live' })
    tabs.push({ page, open })
  }
  return tabs
}
/** The one that leads is first. */
async function ledBy(tabs: Tab[]): Promise<Tab[]> {
  await eventually(async () => tabs.filter(({ open }) => open() > 0).length === 1)
  return tabs.toSorted((a, b) => b.open() - a.open())
}

describe.each(['sse', 'poll'])('over %s', (transport) => {
  test('three tabs have one connection; a reply is shown in all, and goes on when the tab that has it is closed', async () => {
    const id = randomUUID()
    await scene.chat.sessions.create({ id, userId: 'ann' })
    const [leader, ...others] = await ledBy(await openTabs(id, transport, 3))
    await sendOn(others[0]!.page, 'slow')
    scene.say(2)
    for (const { page } of [leader!, ...others]) {
      await untilShown(page, 'user: slow', 'assistant: 0 1 ')
      expect(await stateOf(page)).toMatchObject({ isLive: true, transport })
    }
    expect(leader!.open()).toBe(1)
    expect(others.map(({ open }) => open())).toEqual([0, 0])
    await leader!.page.close()
    scene.say(2)
    for (const { page } of others) await untilShown(page, 'user: slow', 'assistant: 0 1 2 3 ')
    await ledBy(others)
    scene.say(2)
    for (const { page } of others) {
      await untilShown(page, 'user: slow', 'assistant: 0 1 2 3 4 5 ')
      await untilState(page, { isBusy: false })
      await expectSteady(page)
    }
  })

  test('the tab that has the connection crashes: the others go on', async () => {
    const id = randomUUID()
    await scene.chat.sessions.create({ id, userId: 'ann' })
    const [leader, other] = await ledBy(await openTabs(id, transport, 2))
    await sendOn(other!.page, 'slow')
    scene.say(1)
    await untilShown(other!.page, 'user: slow', 'assistant: 0 ')
    await crash(leader!.page)
    scene.say(5)
    await untilShown(other!.page, 'user: slow', 'assistant: 0 1 2 3 4 5 ')
    await untilState(other!.page, { isBusy: false, isLive: true })
    await expectSteady(other!.page)
  })

  test('the tab that has the connection stands still: another takes its place, and it comes back to that', async () => {
    const id = randomUUID()
    await scene.chat.sessions.create({ id, userId: 'ann' })
    const [leader, other] = await ledBy(await openTabs(id, transport, 2))
    const hold = gate()
    await leader!.page.route('**/hold', async (route) => {
      await hold.passed
      await route.fulfill({ body: '' })
    })
    const held = leader!.page.waitForRequest('**/hold')
    const stands = leader!.page.evaluate(() => {
      const request = new XMLHttpRequest()
      request.open('GET', '/hold', false)
      request.send()
    })
    await held
    await sendOn(other!.page, 'hi')
    // As the browser tells a page that people come back to.
    await other!.page.evaluate(() => dispatchEvent(new Event('pageshow')))
    await untilShown(other!.page, 'user: hi', 'assistant: Re hi')
    hold.open()
    await stands
    await untilShown(leader!.page, 'user: hi', 'assistant: Re hi')
    await sendOn(leader!.page, 'again')
    for (const { page } of [leader!, other!]) {
      await untilShown(page, 'user: hi', 'assistant: Re hi', 'user: again', 'assistant: Re again')
    }
    await ledBy([leader!, other!])
  })
})
