/** What a user has used, on a page with a chart: one server and one tab for all of it, which go through it in order. */
import type { BrowserContext, Locator, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { daysOf } from '../../web/src/usage-days.ts'
import { labelledDays, ticksOf } from '../../web/src/usage-scale.ts'
import { eventually } from '../support/eventually.ts'
import { usedEarlier } from './earlier.ts'
import { buttonOn, repliedOn, sendOn } from './page.ts'
import { faultsOf, openStage, openTab, picture, type Stage } from './stage.ts'

const hostile = '<img src=x onerror=alert(1)>'
let stage: Stage
let context: BrowserContext
let page: Page
const complaints: string[] = []
/** What the provider has reported. */
const meter = { calls: 0, input: 0, output: 0 }

beforeAll(async () => {
  stage = await openStage()
  stage.provider.script(({ body }) => {
    const said: string = body.messages.findLast(({ role }: { role: string }) => role === 'user').content
    const usage = { inputTokens: 1_200 + 31 * meter.calls, outputTokens: 400 + 7 * meter.calls }
    meter.calls++
    meter.input += usage.inputTokens
    meter.output += usage.outputTokens
    return [{ text: `Re ${said}` }, { usage }]
  })
  context = await stage.browser.newContext({ viewport: { width: 1280, height: 844 }, locale: 'en-GB' })
  page = await openTab(context, stage.site.origin, complaints)
})
afterAll(async () => {
  await context.close()
  await stage.close()
  expect(complaints).toEqual([])
})

const menu = () => page.getByRole('link', { name: 'Usage' })
const heading = () => page.getByRole('heading', { level: 1 })
const range = (name: string) => page.getByRole('radio', { name })
const hasKeyboard = (of: Locator) => of.evaluate((it) => it === document.activeElement)
const total = async (name: string) => {
  const figure = page.locator('.usage-totals > div').filter({ has: page.getByText(name, { exact: true }) })
  return await figure.locator('dd').first().innerText()
}
const totals = () => Promise.all(['Messages', 'Replies', 'Tokens', 'Cost'].map(total))
const rowsOf = async (name: string) => {
  const rows = await page.getByRole('table', { name }).locator('tbody tr').all()
  return await Promise.all(rows.map((row) => row.locator('th, td').allInnerTexts()))
}
const chart = () => page.getByRole('slider', { name: 'Tokens of a day' })
const told = () => chart().getAttribute('aria-valuetext')
const words = (count: number) => count.toLocaleString('en-GB')
const shown = (name: string) => page.locator(`.usage-shown[data-range="${name}"][aria-busy="false"]`).waitFor()
const loaded = () =>
  page.evaluate(() => performance.getEntriesByType('resource').some(({ name }) => name.includes('usage-page')))

async function say(text: string): Promise<void> {
  await buttonOn(page, 'New chat').click()
  await sendOn(page, text)
  await repliedOn(page, new RegExp(`Re ${text}`)).waitFor()
  await page.locator('article.reply[data-status="complete"]').waitFor()
}

test('who has used nothing is told so, from the menu on, and what draws it is loaded only then, or when it is asked for again', async () => {
  await page.getByText('You are free to leave.').waitFor()
  expect(await loaded()).toBe(false)
  await page.route('**/usage-page-*.js', (route) => route.abort())
  await menu().click()
  await page.getByRole('alert').getByText('This part of the page did not load.').waitFor()
  await page.unrouteAll()
  await buttonOn(page, 'Retry').press('Enter')
  await page.getByRole('heading', { name: 'Nothing was used in the last 30 days.' }).waitFor()
  await eventually(() => hasKeyboard(range('30 days')))
  expect(await loaded()).toBe(true)
  expect([new URL(page.url()).hash, await page.title()]).toEqual(['#/usage/30', 'Usage · Holdfast'])
  expect(await menu().getAttribute('aria-current')).toBe('page')
  await page.getByRole('main').getByRole('button', { name: 'New chat' }).click()
  await page.getByText('You are free to leave.').waitFor()
})

test('totals, chart and tables are what the provider reported, each time that the page is opened; names are text (I15)', async () => {
  await say('first')
  await say('second')
  await say('third')
  const { origin, hash } = new URL(page.url())
  const renamed = await context.request.patch(`${origin}/v1/sessions/${hash.slice(2)}`, { data: { title: hostile } })
  expect(renamed.status()).toBe(200)
  await menu().click()
  await shown('30')
  expect(await totals()).toEqual(['3', '3', words(meter.input + meter.output), '–'])
  // The list hears of it.
  await page.getByRole('link', { name: hostile }).waitFor()
  const used = [words(meter.input), words(meter.output)]
  expect(await rowsOf('By model')).toEqual([[expect.stringMatching(/\S/), '3', ...used]])
  const chats = await rowsOf('By chat')
  expect(chats.map(([title]) => title).sort()).toEqual([hostile, 'first', 'second'].sort())
  expect(await told()).toMatch(`: ${used[0]} tokens in, ${used[1]} out, 3 messages`)
  await page.getByRole('link', { name: 'first' }).click()
  await repliedOn(page, /Re first/).waitFor()

  await sendOn(page, 'again')
  await repliedOn(page, /Re again/).waitFor()
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
  await page.goBack()
  await shown('30')
  expect(await totals()).toEqual(['4', '4', words(meter.input + meter.output), '–'])
})

test('another range has its own address, days and figures; a day without use is told as none, by key and by pointer', async () => {
  await usedEarlier(stage.database.url, hostile, { daysAgo: 20, model: hostile, cost: 0.031, isEstimated: true })
  await usedEarlier(stage.database.url, 'second', { daysAgo: 2, model: 'second-model', cost: 1.5 })
  await range('7 days').check()
  await shown('7')
  expect(new URL(page.url()).hash).toBe('#/usage/7')
  expect((await totals()).slice(0, 2)).toEqual(['3', '3'])
  expect((await rowsOf('By model')).map(([name]) => name)).not.toContain(hostile)
  await range('30 days').check()
  await shown('30')
  expect(await totals()).toEqual(['4', '4', words(meter.input + meter.output), '≥ 1.53'])
  expect((await rowsOf('By model')).map(([name, , , , cost]) => [name, cost])).toEqual(
    expect.arrayContaining([
      [`${hostile}\nPartly estimated`, '0.031'],
      ['second-model', '1.50'],
    ]),
  )
  await page.getByText('Partly estimated: what 1 call of the model used was not reported.').waitFor()
  await page.locator('summary').click()
  expect(await rowsOf('By day')).toHaveLength(3)

  await chart().focus()
  await page.keyboard.press('ArrowLeft')
  expect(await told()).toMatch(/: nothing used$/)
  await page.locator('.usage-tip').getByText('Nothing used').waitFor()
  await page.keyboard.press('ArrowLeft')
  expect(await told()).toMatch(/ 1 message, cost 1\.50$/)
  await page.keyboard.press('Escape')
  await page.locator('.usage-tip').waitFor({ state: 'detached' })
  const bar = (await page.locator('.usage-plot .usage-output').first().boundingBox())!
  await page.mouse.move(bar.x + bar.width / 2, bar.y)
  await page.locator('.usage-tip').getByText('0.031').waitFor()
  expect(await page.locator('main img').count()).toBe(0)
})

test('it is readable on a phone and wide, in both themes, and mirrored where the page is read from right to left', async () => {
  await chart().focus()
  await page.keyboard.press('End')
  await picture(page, 'usage')
  expect(await faultsOf(page, 'usage')).toEqual([])
  await page.setViewportSize({ width: 390, height: 844 })
  const isTooWide = () => page.locator('.usage').evaluate((it) => it.scrollWidth > it.clientWidth)
  await eventually(async () => !(await isTooWide()))
  const bars = async () => {
    const boxes = await Promise.all((await page.locator('.usage-input').all()).map((bar) => bar.boundingBox()))
    return boxes.map((box) => box!.x)
  }
  expect((await bars()).toSorted((a, b) => a - b)).toEqual(await bars())
  await page.evaluate(() => {
    document.documentElement.dir = 'rtl'
  })
  expect((await bars()).toSorted((a, b) => b - a)).toEqual(await bars())
  await chart().focus()
  await page.keyboard.press('Home')
  await page.keyboard.press('ArrowLeft')
  expect(await told()).toMatch(new RegExp(`^\\w+ ${Number(daysOf('30', Date.now())[1]!.slice(8))} `))
  expect(await isTooWide()).toBe(false)
  await picture(page, 'usage-mirrored')
  await page.evaluate(() => {
    document.documentElement.dir = ''
  })
})

test('where the server is not reached the page says so, and shows it when it is asked again; Back leaves it at once', async () => {
  await page.setViewportSize({ width: 1280, height: 844 })
  stage.site.setDown(true)
  await range('90 days').check()
  await page.getByRole('alert').getByText('The server does not answer.').waitFor()
  expect(await page.getByRole('table').count()).toBe(0)
  stage.site.setDown(false)
  await buttonOn(page, 'Retry').press('Enter')
  await shown('90')
  expect((await totals())[0]).toBe('4')
  await eventually(() => hasKeyboard(range('90 days')))
  await range('This month').check()
  await shown('month')
  await page.goBack()
  await eventually(async () => (await heading().innerText()) !== 'Usage')
})

test('the numbers beside the chart are round, whole and few; its days are those of UTC', () => {
  expect(ticksOf(0)).toEqual([0, 1])
  expect(ticksOf(3)).toEqual([0, 1, 2, 3])
  expect(ticksOf(1_234)).toEqual([0, 500, 1_000, 1_500])
  expect(ticksOf(80_000)).toEqual([0, 20_000, 40_000, 60_000, 80_000])
  for (const highest of [1, 9, 10, 99, 101, 4_999, 7_777_777]) {
    const ticks = ticksOf(highest)
    expect([ticks.length >= 2 && ticks.length <= 6, ticks.at(-1)! >= highest]).toEqual([true, true])
  }
  expect(labelledDays(7, 1_000, 58)).toEqual([0, 1, 2, 3, 4, 5, 6])
  expect(labelledDays(30, 300, 58)).toEqual([5, 11, 17, 23, 29])
  expect(labelledDays(3, 0, 58).at(-1)).toBe(2)
  const midnight = Date.UTC(2026, 2, 1, 0, 30)
  expect(daysOf('7', midnight).slice(-2)).toEqual(['2026-02-28', '2026-03-01'])
  expect(daysOf('month', midnight)).toEqual(['2026-03-01'])
})
