/**
 * The main states of the web app, one after the other, with the demo model. With a folder it leaves the pictures of
 * docs/tour.md there: HOLDFAST_TEST_PICTURES=docs/tour npx vitest run --project tests test/web/tour.test.ts
 */
import type { BrowserContext, Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { freshDatabase } from '../support/postgres.ts'
import { usedEarlier } from './earlier.ts'
import { buttonOn, composerOn, ownOn, repliedOn, sendOn, untilStatusOn } from './page.ts'
import { openStage, openTab, picture, type Stage } from './stage.ts'
import { type Site, startSite } from './support.ts'

let stage: Stage
let site: Site
let database: Awaited<ReturnType<typeof freshDatabase>>
let context: BrowserContext
let page: Page
const complaints: string[] = []

beforeAll(async () => {
  stage = await openStage()
  database = await freshDatabase(18)
  const { assets, provider } = stage
  const env = { OPENAI_API_KEY: '' }
  site = await startSite({ dir: assets.dir, database: database.url, provider: provider.url, env })
  context = await stage.browser.newContext({ viewport: { width: 1280, height: 844 }, locale: 'en-GB' })
  page = await openTab(context, site.origin, complaints)
})
afterAll(async () => {
  await context.close()
  await site.close()
  await Promise.all([stage.close(), database.drop()])
})

const begin = async (text: string) => {
  await page.setViewportSize({ width: 1280, height: 844 })
  await buttonOn(page, 'New chat').click()
  await sendOn(page, text)
}

// Both widths in both themes over the tour; all of each state would be twice as heavy.
const lightFirst = [{ width: 1280, colorScheme: 'light' } as const, { width: 390, colorScheme: 'dark' } as const]
const darkFirst = [{ width: 1280, colorScheme: 'dark' } as const, { width: 390, colorScheme: 'light' } as const]

test('a tour of the web app', async () => {
  await page.getByText('You are free to leave.').waitFor()
  await picture(page, '1-new', lightFirst)

  await begin('long')
  await page.locator('article.reply[data-status="streaming"] h3').first().waitFor()
  await picture(page, '2-streaming', darkFirst)
  await page.setViewportSize({ width: 1280, height: 844 })
  await buttonOn(page, 'Kill the server').click()
  await page.getByRole('listitem').filter({ hasText: 'Attempt 2' }).first().waitFor()
  // It is a long one.
  await page.locator('article.reply[data-status="complete"]').waitFor({ timeout: 90_000 })
  await buttonOn(page, 'What happened').click()
  await page.getByRole('list', { name: 'What happened to this reply' }).getByText('Complete').waitFor()
  await picture(page, '3-killed', lightFirst)

  await begin('send an email')
  await repliedOn(page, /May send_email run/).waitFor()
  await picture(page, '4-asks', darkFirst)
  await page.setViewportSize({ width: 1280, height: 844 })
  await buttonOn(page, 'Approve').click()
  await untilStatusOn(page, 'complete')

  await begin('slow')
  await page.locator('article.reply[data-status="streaming"]').waitFor()
  await sendOn(page, 'and then this')
  await ownOn(page, 'and then this').getByText('Queued, next in line').waitFor()
  await composerOn(page).fill('or this, now')
  await picture(page, '5-queued', lightFirst)
  await composerOn(page).fill('')
  await page.setViewportSize({ width: 1280, height: 844 })
  await buttonOn(page, 'Stop').first().click()
  await page.locator('article.reply[data-status="stopped"]').waitFor()

  await begin('fail')
  await untilStatusOn(page, 'failed')
  await picture(page, '6-failed', darkFirst)

  await begin('What is kept when I am offline?')
  await untilStatusOn(page, 'complete')
  site.setDown(true)
  await page.getByRole('status').getByText('The server is not reached.').waitFor()
  await sendOn(page, 'I write this in a tunnel')
  await ownOn(page, 'I write this in a tunnel').getByText('Waits for the network').waitFor()
  await picture(page, '7-offline', lightFirst)
  site.setDown(false)
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()

  await begin('What happens when two of us write here?')
  await untilStatusOn(page, 'complete')
  await page.getByRole('button', { name: 'People: only you' }).click()
  const people = page.getByRole('dialog', { name: 'People in this chat' })
  await people.getByRole('combobox', { name: /^For/ }).selectOption('5')
  await buttonOn(page, 'Make a link').click()
  const guests = await stage.browser.newContext({ viewport: { width: 1280, height: 844 }, locale: 'en-GB' })
  const other = await openTab(guests, await people.getByLabel('Invitation link').inputValue(), complaints)
  await buttonOn(other, 'Join').click()
  await other.getByRole('status').getByText('Live', { exact: true }).waitFor()
  await composerOn(other).pressSequentially('I have')
  await people.getByText('writing…').waitFor()
  await picture(page, '8-people', lightFirst)
  await page.setViewportSize({ width: 1280, height: 844 })
  await page.keyboard.press('Escape')
  await sendOn(other, 'I have it open beside you. Is it long until you see this?')
  await page.locator('.own.is-others').waitFor()
  await page.locator('article.reply[data-status="streaming"]').waitFor()
  await composerOn(other).pressSequentially('And')
  await page
    .getByRole('status')
    .getByText(/is writing…/)
    .waitFor()
  await picture(page, '9-several', darkFirst)
  await guests.close()
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()

  for (const [at, title] of ['What is kept when I am offline?', 'slow', 'send an email', 'long'].entries()) {
    await usedEarlier(database.url, title, { daysAgo: 2 * at + 1 })
  }
  await page.setViewportSize({ width: 1280, height: 844 })
  await page.getByRole('link', { name: 'Usage' }).click()
  await page.locator('.usage-shown[aria-busy="false"]').waitFor()
  await picture(page, '10-usage', lightFirst)
  expect(complaints).toEqual([])
}, 180_000)
