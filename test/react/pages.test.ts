/** `holdfast/react` in Chromium, in StrictMode, on an app with Holdfast in it, over each kind of connection (R0.5, R0.7, R2.2, R2.5). */
import { randomUUID } from 'node:crypto'
import type { BrowserContext } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { gate } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import {
  crash,
  expectSteady,
  openScene,
  type Scene,
  sendOn,
  shownOn,
  stateOf,
  transports,
  untilShown,
  untilState,
} from './scene.ts'

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
  scene.proxy.accept()
  await context.close()
  expect(complaints).toEqual([])
})
const open = (id: string, transport: string) => scene.open(context, id, transport, complaints)

describe.each(transports)('over %s', (transport) => {
  test('a new chat begins, streams, is left and come back to with its dots, on two tabs', async () => {
    const id = randomUUID()
    const page = await open(id, transport)
    await untilState(page, { phase: 'missing' })
    await sendOn(page, 'slow')
    await untilShown(page, 'user: slow', 'assistant: ')
    const other = await open(id, transport)
    scene.say(2)
    for (const tab of [page, other]) await untilShown(tab, 'user: slow', 'assistant: 0 1 ')
    expect(await stateOf(page)).toMatchObject({ isLive: true, isBusy: true, transport, unsent: 0 })
    await page.getByRole('button', { name: 'Leave' }).click()
    scene.say(2)
    await page.getByRole('button', { name: 'Come back' }).click()
    await page.locator('#dots').waitFor()
    for (const tab of [page, other]) await untilShown(tab, 'user: slow', 'assistant: 0 1 2 3 ')
    await page.reload()
    await untilShown(page, 'user: slow', 'assistant: 0 1 2 3 ')
    scene.proxy.cutAll()
    scene.say(2)
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
    await untilState(other, { unsent: 0, isBusy: false })
    const { data } = await scene.chat.messages.list(id)
    expect(data.map(({ role, parts }) => `${role}: ${textOf(parts as Parameters<typeof textOf>[0])}`)).toEqual(
      await shownOn(other),
    )
  })

  test('reloaded, and crashed, while a message is on its way and when its answer is: it is stored once, and answered', async () => {
    const id = randomUUID()
    let page = await open(id, transport)
    await untilState(page, { phase: 'missing' })
    for (const [text, arrives] of [
      ['lost on its way', false],
      ['its answer lost', true],
    ] as const) {
      const under = gate()
      await page.route('**/messages', async (route) => {
        if (arrives) await route.fetch()
        under.open()
      })
      await sendOn(page, text)
      await under.passed
      if (arrives) {
        await crash(page)
        page = await open(id, transport)
      } else {
        await page.unrouteAll()
        await page.reload()
      }
      await untilState(page, { unsent: 0, isBusy: false, isLive: true })
    }
    const shown = ['lost on its way', 'its answer lost'].flatMap((text) => [`user: ${text}`, `assistant: Re ${text}`])
    await untilShown(page, ...shown)
    const { data } = await scene.chat.messages.list(id)
    expect(data).toHaveLength(4)
  })
})
