/** What somebody has written is in the chat or in a field, and once: whatever is closed, lost or asked twice meanwhile. */
import type { BrowserContext, Page, Route } from 'playwright-core'
import { expect, test } from 'vitest'
import { gate } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import {
  buttonOn,
  composerOn,
  expectShownIsStored,
  ownOn,
  repliedOn,
  sendOn,
  storedOf,
  untilStatusOn,
  untilStreamingOn,
} from './page.ts'
import { gatesOf, openTab, type Stage, sceneForEach } from './stage.ts'

let stage: Stage
let context: BrowserContext
let page: Page
let complaints: string[]
const gates = gatesOf()

sceneForEach({ gates, height: 800 }, (scene) => {
  ;({ stage, context, page, complaints } = scene)
})

const newTab = () => openTab(context, stage.site.origin, complaints)
const isLive = (tab: Page) => tab.getByRole('status').getByText('Live', { exact: true }).waitFor()
const asked = (command: string) => stage.site.passed.filter((line) => line.endsWith(`/${command}`))
const editor = (tab = page) => tab.getByRole('textbox', { name: 'Edit message' })

/** A reply is being written, and this message waits behind it. */
async function queue(text: string): Promise<void> {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await sendOn(page, text)
  await ownOn(page, text).getByText('Queued').waitFor()
}

test('a text that is withdrawn while another chat is shown is in its own chat’s field (I16)', async () => {
  await queue('do not lose me')
  const answered = gate()
  await page.route('**/stop', async (route) => {
    await answered.passed
    await route.continue()
  })
  await ownOn(page, 'do not lose me').getByRole('button', { name: 'Withdraw' }).click()
  await buttonOn(page, 'New chat').click()
  await page.getByText('You are free to leave.').waitFor()
  const stopped = page.waitForResponse('**/stop')
  answered.open()
  await (await stopped).finished()
  await page.locator('nav .session-open').click()
  await eventually(async () => (await composerOn(page).inputValue()) === 'do not lose me')
  await ownOn(page, 'do not lose me').waitFor({ state: 'detached' })
  await page.reload()
  await eventually(async () => (await composerOn(page).inputValue()) === 'do not lose me')
})

test('a text that is withdrawn twice at once, or by two tabs that go on with it, is given back once (I16)', async () => {
  await queue('only once')
  let count = 0
  const answered = gate()
  const hold = async (route: Route) => {
    count++
    await answered.passed
    await route.continue()
  }
  await page.route('**/stop', hold)
  await ownOn(page, 'only once').getByRole('button', { name: 'Withdraw' }).dblclick()
  answered.open()
  await eventually(async () => (await composerOn(page).inputValue()) === 'only once')
  expect(count).toBe(1)

  await page.unroute('**/stop')
  await page.keyboard.press('Enter')
  await ownOn(page, 'only once').getByText('Queued').waitFor()
  await page.route('**/stop', async (route) => {
    await route.fetch()
    await route.abort()
  })
  await ownOn(page, 'only once').getByRole('button', { name: 'Withdraw' }).click()
  await ownOn(page, 'only once').waitFor({ state: 'detached' })
  await page.close()
  count = 0
  const again = gate()
  await context.route('**/stop', async (route) => {
    count++
    await again.passed
    await route.continue()
  })
  const tabs = await Promise.all([newTab(), newTab()])
  await Promise.all(tabs.map(isLive))
  await eventually(async () => count > 0)
  const given = async () => (await Promise.all(tabs.map((tab) => composerOn(tab).inputValue()))).join('')
  again.open()
  await eventually(async () => (await given()) === 'only once')
  // The other tab's turn comes when the first has had its answer: it finds that nothing is left to be asked.
  await eventually(
    async () =>
      (await tabs[0]!.evaluate(async () => {
        const { held = [], pending = [] } = await navigator.locks.query()
        return [...held, ...pending].filter(({ name }) => name?.startsWith('holdfast:stopping:')).length
      })) === 0,
  )
  expect(await given()).toBe('only once')
  expect(count).toBe(1)
})

test('an edit that is being written stays over a reload, another chat and Escape, until it is saved or cancelled (I16)', async () => {
  await sendOn(page, 'first')
  await untilStatusOn(page, 'complete')
  await buttonOn(page, 'Edit message').click()
  await editor().fill('half written')
  await page.reload()
  await eventually(async () => (await editor().inputValue()) === 'half written')
  await page.locator('[aria-label="Message"]:focus').waitFor()

  await buttonOn(page, 'New chat').click()
  await page.getByText('You are free to leave.').waitFor()
  await page.locator('nav .session-open').click()
  await eventually(async () => (await editor().inputValue()) === 'half written')

  await editor().press('Escape')
  await ownOn(page, 'first').waitFor()
  await buttonOn(page, 'Edit message').click()
  expect(await editor().inputValue()).toBe('half written')
  await buttonOn(page, 'Cancel').click()
  await page.reload()
  await ownOn(page, 'first').waitFor()
  expect(await editor().count()).toBe(0)
  await buttonOn(page, 'Edit message').click()
  expect(await editor().inputValue()).toBe('first')
})

test('an edit whose answer the page does not live to hear makes one branch (I10, I16)', async () => {
  await sendOn(page, 'first')
  await untilStatusOn(page, 'complete')
  await page.route('**/edit', async (route) => {
    await route.fetch()
    await route.abort()
  })
  await buttonOn(page, 'Edit message').click()
  await editor().fill('the first')
  await page.keyboard.press('Enter')
  await page.getByRole('group', { name: 'version 2 of 2' }).waitFor()
  await page.close()
  page = await newTab()
  await repliedOn(page, /Re the first/).waitFor()
  await eventually(async () => asked('edit').length >= 1)
  await buttonOn(page, 'Previous version').click()
  await page.getByRole('group', { name: 'version 1 of 2' }).waitFor()
  await ownOn(page, 'first').waitFor()
  expect(await editor().count()).toBe(0)
  await expectShownIsStored(page)

  // One that never arrived is asked for by the next page.
  await page.route('**/edit', (route) => route.abort())
  await buttonOn(page, 'Edit message').click()
  await editor().fill('the very first')
  const tried = page.waitForRequest('**/edit')
  await page.keyboard.press('Enter')
  await tried
  await page.close()
  page = await newTab()
  await repliedOn(page, /Re the very first/).waitFor()
  await page.getByRole('group', { name: 'version 3 of 3' }).waitFor()
  await untilStatusOn(page, 'complete')
  await expectShownIsStored(page)
})

test('a message that could not be sent is taken back, and if it had arrived all the same it is withdrawn there, too (I16)', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await page.route('**/messages', (route) => route.abort())
  await sendOn(page, 'never sent')
  await ownOn(page, 'never sent').getByRole('button', { name: 'Withdraw' }).click()
  await eventually(async () => (await composerOn(page).inputValue()) === 'never sent')
  await ownOn(page, 'never sent').waitFor({ state: 'detached' })
  await composerOn(page).fill('')
  await page.unroute('**/messages')

  const cut = gate()
  await page.route('**/messages', async (route) => {
    await route.fetch()
    await route.abort()
  })
  await page.route('**/tickets', async (route) => {
    await cut.passed
    await route.continue()
  })
  // The page hears nothing from the server, which has the message.
  stage.site.setDown(true)
  stage.site.setDown(false)
  await page.getByRole('status').getByText('Reconnecting').waitFor()
  await sendOn(page, 'it arrived')
  await ownOn(page, 'it arrived').getByRole('button', { name: 'Withdraw' }).click()
  await eventually(async () => (await composerOn(page).inputValue()) === 'it arrived')
  cut.open()
  await isLive(page)
  await eventually(async () => (await storedOf(page)).messages.length === 2)
  await ownOn(page, 'it arrived').waitFor({ state: 'detached' })
  expect(await composerOn(page).inputValue()).toBe('it arrived')
})

test('what was to interrupt or to steer a reply waits its turn where it is sent long after (I16)', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await page.route('**/messages', (route) => route.abort())
  await composerOn(page).fill('at once')
  await buttonOn(page, 'Send now').click()
  await ownOn(page, 'at once').getByRole('button', { name: 'Withdraw' }).waitFor()
  await page.close()
  page = await context.newPage()
  await page.clock.install({ time: Date.now() + 120_000 })
  await page.goto(stage.site.origin)
  await ownOn(page, 'at once').getByText('Queued, next in line').waitFor()
  await untilStreamingOn(page)
  gates.of('wait').open()
  await repliedOn(page, /Re at once/).waitFor()
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
  await expectShownIsStored(page)
})
