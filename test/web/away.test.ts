/** Who comes back finds what came, and who goes back in a chat keeps their place. */
import type { BrowserContext, Page } from 'playwright-core'
import { expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import { buttonOn, repliedOn, sendOn, untilStatusOn, untilStreamingOn } from './page.ts'
import { faultsOf, gatesOf, openTab, picture, type Stage, sceneForEach } from './stage.ts'

let stage: Stage
let context: BrowserContext
let page: Page
let complaints: string[]
const gates = gatesOf()

sceneForEach({ gates, height: 800 }, (scene) => {
  ;({ stage, context, page, complaints } = scene)
})

const marker = () => page.getByText('You were away: here is what came')
/** The reply right behind it. */
const after = () => page.locator('.came + article.reply')

async function sayElsewhere(count: number, chat = page.url()): Promise<void> {
  const { hash } = new URL(chat)
  for (let at = 0; at < count; at++) {
    const path = `${stage.site.origin}/v1/sessions/${hash.slice(2)}/messages?wait=10`
    const answer = await context.request.post(path, { data: { id: `m${at}`, text: `message ${at}` } })
    expect(answer.status()).toBe(200)
  }
}

test('who opens a chat again finds the first reply that nobody has read marked and in sight, until they write', async () => {
  await sendOn(page, 'first')
  await untilStatusOn(page, 'complete')
  expect(await marker().count()).toBe(0)
  const { href } = new URL(page.url())
  await page.reload()
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  expect(await marker().count()).toBe(0)
  await page.goto('about:blank')
  await sayElsewhere(12, href)
  await page.goto(href)
  await marker().waitFor()
  await after().getByText('Re message 0', { exact: true }).waitFor()
  await eventually(() => marker().evaluate((it) => it.getBoundingClientRect().top > 0))
  await picture(page, 'away')
  expect(await faultsOf(page, 'away')).toEqual([])
  await sendOn(page, 'I am back')
  await marker().waitFor({ state: 'detached' })
  await repliedOn(page, /Re I am back/).waitFor()
  // It was read: who comes again finds no mark.
  await buttonOn(page, 'New chat').click()
  await page.locator('nav .session-open').first().click()
  await repliedOn(page, /Re I am back/).waitFor()
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  expect(await marker().count()).toBe(0)
})

test('what comes while the tab is hidden is marked when it is seen again, unless it was hidden for a moment only', async () => {
  await page.clock.install()
  await page.reload()
  const show = (isHidden: boolean) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden })
      document.dispatchEvent(new Event('visibilitychange'))
    }, isHidden)
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await show(true)
  gates.of('wait').open()
  await untilStatusOn(page, 'complete')
  await show(false)
  expect(await marker().count()).toBe(0)
  await show(true)
  await sayElsewhere(2)
  await repliedOn(page, /Re message 1/).waitFor()
  await page.clock.fastForward(15_000)
  await show(false)
  await marker().waitFor()
  await after().getByText('Re message 0', { exact: true }).waitFor()
})

test('earlier messages come as the reader goes up, and what is looked at does not move', async () => {
  await sendOn(page, 'message first')
  await untilStatusOn(page, 'complete')
  await sayElsewhere(40)
  await page.reload()
  await repliedOn(page, /Re message 39/).waitFor()
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  const shown = () => page.locator('main article').count()
  const before = await shown()
  expect(before).toBeLessThan(82)
  const oldest = await page.locator('main article').first().getAttribute('data-message')
  const held = page.locator(`[data-message="${oldest}"]`)
  const top = () => held.evaluate((it) => it.getBoundingClientRect().top)
  await page.locator('.messages').evaluate((it) => it.scrollTo({ top: 0 }))
  // Written down in each picture that is drawn from here on; it may be drawn anew.
  await page.evaluate((id) => {
    const tops: (number | undefined)[] = []
    ;(window as unknown as { tops: typeof tops }).tops = tops
    const look = () => {
      tops.push(document.querySelector(`[data-message="${id}"]`)?.getBoundingClientRect().top)
      requestAnimationFrame(look)
    }
    look()
  }, oldest)
  await eventually(async () => (await shown()) === 82)
  const tops = await page.evaluate(() => (window as unknown as { tops: number[] }).tops)
  expect(tops.length).toBeGreaterThan(1)
  // As it was drawn first: between two pictures it may stand elsewhere for a moment.
  const start = tops[0]!
  expect(tops.filter((each) => Math.abs(each - start) > 2)).toEqual([])
  await eventually(async () => Math.abs((await top()) - start) <= 2)
})

test('a hidden tab that has the stream of all tabs leaves it to the one that is seen, which misses nothing (I5)', async () => {
  await page.clock.install()
  await page.goto(`${stage.site.origin}/?transport=sse`)
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  const second = await openTab(context, page.url(), complaints)
  await untilStreamingOn(second)
  await second.getByRole('status').getByText('Live', { exact: true }).waitFor()
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => true })
    document.dispatchEvent(new Event('visibilitychange'))
  })
  await page.clock.fastForward(31_000)
  gates.of('wait').open()
  await untilStatusOn(second, 'complete')
  await sayElsewhere(1)
  await repliedOn(second, /Re message 0/).waitFor()
  expect(await repliedOn(page, /Re message 0/).count()).toBe(0)
  expect(stage.site.openStreams()).toBe(1)
})
