/** The list of chats: live on every device, what is unread, searched by title; and what the page says of a lost connection. */
import type { BrowserContext, Page } from 'playwright-core'
import { expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import { buttonOn, composerOn, ownOn, repliedOn, sendOn, untilStatusOn, untilStreamingOn } from './page.ts'
import { faultsOf, gatesOf, openTab, picture, type Stage, sceneForEach } from './stage.ts'

let stage: Stage
let context: BrowserContext
let page: Page
let complaints: string[]
const gates = gatesOf()

sceneForEach({ gates, height: 800 }, (scene) => {
  ;({ stage, context, page, complaints } = scene)
})

const newTab = () => openTab(context, stage.site.origin, complaints)
const row = (tab: Page, title: string) => tab.locator('nav .session').filter({ hasText: title })
const unread = (tab: Page, title: string) => row(tab, title).locator('.unread')
const rows = (tab: Page) => tab.locator('nav .session .font-medium').allTextContents()
const api = (path: string) => `${stage.site.origin}/v1/sessions${path}`

test('a reply that comes while another chat is shown is unread in every list, until its chat is shown somewhere (P140, P126)', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await buttonOn(page, 'New chat').click()
  await sendOn(page, 'hello')
  await repliedOn(page, /Re hello/).waitFor()
  const second = await newTab()
  await row(second, 'hello').waitFor()
  gates.of('wait').open()
  for (const tab of [page, second]) {
    await unread(tab, 'wait').getByText('1 unread').waitFor()
    await row(tab, 'wait').getByText('word0').waitFor()
    expect(await unread(tab, 'hello').count()).toBe(0)
  }
  await picture(page, 'unread')
  expect(await faultsOf(page, 'unread')).toEqual([])
  await row(second, 'wait').locator('.session-open').click()
  for (const tab of [page, second]) await unread(tab, 'wait').waitFor({ state: 'detached' })
})

test('a tab that is hidden has read nothing, and says once that it has when it is seen', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => true })
    document.dispatchEvent(new Event('visibilitychange'))
  })
  const receipts = () => stage.site.passed.filter((line) => line.endsWith('/receipts')).length
  const before = receipts()
  gates.of('wait').open()
  await untilStatusOn(page, 'complete')
  await unread(page, 'wait').waitFor()
  expect(receipts()).toBe(before)
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => false })
    document.dispatchEvent(new Event('visibilitychange'))
  })
  await unread(page, 'wait').waitFor({ state: 'detached' })
  expect(receipts()).toBe(before + 1)
})

test('what other devices create, rename, answer and delete shows in the list by itself', async () => {
  await sendOn(page, 'mine')
  await untilStatusOn(page, 'complete')
  const { request } = context
  await request.post(api(''), { data: { id: 'elsewhere', title: 'From elsewhere' } })
  await row(page, 'From elsewhere').waitFor()
  await request.patch(api('/elsewhere'), { data: { title: 'Renamed there' } })
  await row(page, 'Renamed there').waitFor()
  await request.post(api('/elsewhere/messages'), { data: { id: 'm1', text: 'spoken there' } })
  await row(page, 'Renamed there').getByText('Re spoken there').waitFor()
  expect(await rows(page)).toEqual(['Renamed there', 'mine'])
  await request.delete(api('/elsewhere'))
  await row(page, 'Renamed there').waitFor({ state: 'detached' })
})

test('titles are searched by keyboard, in older chats, too, and Escape ends the search and nothing else', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  for (let at = 0; at < 40; at++) {
    await context.request.post(api(''), { data: { title: at === 0 ? 'The first plan' : `Chat ${at}` } })
  }
  await page.reload()
  const search = page.getByRole('searchbox', { name: 'Search the titles of chats' })
  await search.fill('chat 39')
  await eventually(async () => (await rows(page)).join() === 'Chat 39')
  await search.fill('plan first')
  await page.getByRole('status').getByText('No chat of those listed so far').waitFor()
  await buttonOn(page, 'Search older chats').press('Enter')
  await eventually(async () => (await rows(page)).join() === 'The first plan')
  await page.getByRole('status').getByText('1 chat', { exact: true }).waitFor()
  expect(await faultsOf(page, 'search')).toEqual([])
  await page.setViewportSize({ width: 1280, height: 800 })
  await search.press('Escape')
  await eventually(async () => (await rows(page)).length === 41)
  expect(stage.site.passed.filter((line) => line.endsWith('/stop'))).toEqual([])
  gates.of('wait').open()
  await untilStatusOn(page, 'complete')
})

test('a server that is not reached is told with what becomes of what is written, and tried when asked (R2.3, R2.5)', async () => {
  await page.clock.install()
  await page.reload()
  await sendOn(page, 'hello')
  await untilStatusOn(page, 'complete')
  await ownOn(page, 'hello').getByText('Read.').waitFor({ state: 'attached' })
  stage.site.setDown(true)
  await page.getByRole('status').getByText('The server is not reached.').waitFor()
  await sendOn(page, 'from the tunnel')
  await ownOn(page, 'from the tunnel').getByText('Waits for the network').waitFor()
  await picture(page, 'not-reached')
  expect(await faultsOf(page, 'not-reached')).toEqual([])
  // Its time stands still: by itself it does not try again.
  await page.clock.pauseAt(Date.now() + 60_000)
  stage.site.setDown(false)
  await page.getByRole('button', { name: /^Try now/ }).click()
  await page.clock.resume()
  await repliedOn(page, /Re from the tunnel/).waitFor()
  await page.getByRole('button', { name: /^Try now/ }).waitFor({ state: 'detached' })
})

test('a first look without a network says what is missing and when it comes, in a chat, a new one and the list (R2.5)', async () => {
  await context.route('**/v1/**', (route) => route.abort())
  await page.close()
  page = await context.newPage()
  await page.clock.install()
  await page.goto(`${stage.site.origin}/#/not-loaded-so-far`)
  await page.getByRole('heading', { level: 1, name: 'Chat', exact: true }).waitFor()
  await page.clock.fastForward(700)
  await page.getByText('The chat is being loaded…').waitFor()
  await page.clock.fastForward(3_000)
  const main = page.getByRole('main')
  await main.getByText('The chat is shown when the server is reached.').waitFor()
  await main.getByText('The server is not reached.').waitFor()
  await page.getByText('Your chats are listed here when the server is reached.').waitFor()
  await picture(page, 'no-network')
  expect(await faultsOf(page, 'no-network')).toEqual([])
  await page.setViewportSize({ width: 1280, height: 800 })
  await buttonOn(page, 'New chat').click()
  await page.getByText('You are free to leave.').waitFor()
  await page.clock.fastForward(3_100)
  await main.getByText('The server is not reached.').waitFor()
  // What is written first names its chat at once.
  await sendOn(page, 'is anybody there')
  await page.getByRole('heading', { level: 1, name: 'is anybody there' }).waitFor()
  await context.unrouteAll()
})

test('a message that waits is changed where it stands, and sent as it stands then (R4.6)', async () => {
  await sendOn(page, 'hello')
  await untilStatusOn(page, 'complete')
  await page.route('**/messages', (route) => route.abort())
  await sendOn(page, 'with a tpyo')
  await ownOn(page, 'with a tpyo').getByText('Waits for the network').waitFor()
  await ownOn(page, 'with a tpyo').getByRole('button', { name: 'Edit message' }).click()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('with a typo')
  await page.keyboard.press('Enter')
  await ownOn(page, 'with a typo').getByText('Waits for the network').waitFor()
  await page.unroute('**/messages')
  await repliedOn(page, /Re with a typo/).waitFor()
  expect(await ownOn(page, 'tpyo').count()).toBe(0)
  expect(await composerOn(page).inputValue()).toBe('')
})

test('a chat whose message was refused is marked in the list, and the message is tried again where it stands', async () => {
  await sendOn(page, 'hello')
  await untilStatusOn(page, 'complete')
  const refusal = { code: 'forbidden', detail: 'Not today.', retryable: false, status: 403 }
  await page.route('**/messages', (route) => route.fulfill({ status: 403, json: refusal }))
  await sendOn(page, 'may I')
  await ownOn(page, 'may I').getByRole('alert').getByText('Not sent. Not today.').waitFor()
  await row(page, 'hello').getByText('Not sent').waitFor()
  await picture(page, 'not-sent')
  expect(await faultsOf(page, 'not-sent')).toEqual([])
  await page.unroute('**/messages')
  await ownOn(page, 'may I').getByRole('button', { name: 'Retry' }).click()
  await repliedOn(page, /Re may I/).waitFor()
  await row(page, 'hello').getByText('Not sent').waitFor({ state: 'detached' })
})
