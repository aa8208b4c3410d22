/** What may be done in each state, held against the server's own answers. */
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import pg from 'pg'
import type { BrowserContext, Page } from 'playwright-core'
import { afterEach, expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import type { ProviderRequest } from '../support/provider.mjs'
import {
  buttonOn,
  composerOn,
  expectNotOfferedIsRefused,
  expectShownIsStored,
  ownOn,
  repliedOn,
  sendOn,
  storedOf,
  untilStatusOn,
  untilStreamingOn,
  words,
} from './page.ts'
import { gatesOf, openTab, type Stage, type Step, sceneForEach } from './stage.ts'
import { startSite } from './support.ts'

let stage: Stage
let context: BrowserContext
let page: Page
let complaints: string[]
/** From now on what failed is answered. */
let mended = false
const gates = gatesOf()

sceneForEach({ gates, answerTo, height: 800 }, (scene) => {
  ;({ stage, context, page, complaints } = scene)
  mended = false
})
afterEach(() => operate('resume'))

function answerTo({ body }: ProviderRequest): Step[] {
  const said: string = body.messages.findLast(({ role }: { role: string }) => role === 'user').content
  if (said.includes('fail') && !mended) return [{ status: 401, body: { error: {} } }]
  if (said.includes('wait')) {
    return [{ text: `${words(0, 40)} ` }, { wait: gates.of(said).passed }, { text: words(40, 80) }]
  }
  return [{ text: `Re ${said}` }]
}

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

/** What an operator does: `holdfast pause`, `holdfast resume`. */
async function operate(command: 'pause' | 'resume'): Promise<void> {
  const { PATH, HOME } = process.env
  const env = { PATH, HOME, DATABASE_URL: stage.database.url }
  await promisify(execFile)(process.execPath, [main, command], { env })
}

test('a message that nobody has begun to answer says so, is edited in place and withdrawn, also where it is first in line (I10, I11)', async () => {
  await operate('pause')
  await sendOn(page, 'first')
  await ownOn(page, 'first').getByText('Its reply has not begun').waitFor()
  await expectShownIsStored(page)
  const [before] = (await storedOf(page)).messages
  await buttonOn(page, 'Edit message').click()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('the first')
  await page.getByText('It keeps its place.').waitFor()
  await page.keyboard.press('Enter')
  await ownOn(page, 'the first').getByText('Its reply has not begun').waitFor()
  expect((await storedOf(page)).messages[0]!.id).toBe(before!.id)
  await buttonOn(page, 'Withdraw').click()
  await eventually(async () => (await composerOn(page).inputValue()) === 'the first')
  expect((await storedOf(page)).messages).toEqual([])
  await page.keyboard.press('Enter')
  await ownOn(page, 'the first').getByText('Its reply has not begun').waitFor()
  await operate('resume')
  await repliedOn(page, /Re the first/).waitFor()
  await untilStatusOn(page, 'complete')
  await expectShownIsStored(page)
})

test('a reply that is asked for again while nobody begins any is pending, before and after a reload, and can be stopped (I10)', async () => {
  await sendOn(page, 'fail')
  await untilStatusOn(page, 'failed')
  await operate('pause')
  await buttonOn(page, 'Retry').click()
  for (const look of ['as it came', 'after a reload']) {
    if (look === 'after a reload') await page.reload()
    await page.locator('article.reply[data-status="pending"]').getByText('Pending').waitFor()
    await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
    expect(await page.getByText(/Attempt 1 (failed|ended)/).count()).toBe(0)
    await expectShownIsStored(page)
  }
  await expectNotOfferedIsRefused(page)
  await buttonOn(page, 'Stop').click()
  await untilStatusOn(page, 'stopped')
  await expectShownIsStored(page)
})

test('one in the middle is tried again while a later one runs: it waits in line, and what came after it stays (I10, I13)', async () => {
  await sendOn(page, 'fail')
  await untilStatusOn(page, 'failed')
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await expectShownIsStored(page)
  mended = true
  await buttonOn(page, 'Retry').click()
  for (const look of ['as it came', 'after a reload']) {
    if (look === 'after a reload') await page.reload()
    await ownOn(page, 'fail').getByText('Queued, next in line').waitFor()
    await ownOn(page, 'fail').getByRole('button', { name: 'Stop' }).waitFor()
    await expectShownIsStored(page)
  }
  await expectNotOfferedIsRefused(page)
  gates.of('wait').open()
  await repliedOn(page, /Re fail/).waitFor()
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
  await expectShownIsStored(page)
})

test('a message that was answered as often as it may be is offered no retry, and the server would refuse one', async () => {
  const { assets, provider } = stage
  // Its own: another server on the same would answer by its own bounds.
  const database = await freshDatabase(18)
  const env = { HOLDFAST_ROUNDS_MAX: '2' }
  const strict = await startSite({ dir: assets.dir, database: database.url, provider: provider.url, env })
  // Cookies know no ports: the first server's page would take this one's guest away.
  await page.close()
  await context.clearCookies()
  const tab = await openTab(context, strict.origin, complaints)
  await sendOn(tab, 'fail')
  await untilStatusOn(tab, 'failed')
  await buttonOn(tab, 'Retry').click()
  await tab.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await untilStatusOn(tab, 'failed')
  await buttonOn(tab, 'Retry').waitFor({ state: 'detached' })
  await expectShownIsStored(tab)
  await expectNotOfferedIsRefused(tab)
  await tab.close()
  await strict.close()
  await database.drop()
})

test('a message that is added to the reply is shown as taken into it, has no commands of its own, also after a reload', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await composerOn(page).fill('and this')
  await buttonOn(page, 'Add to reply').click()
  await ownOn(page, 'and this').getByText('Queued, next in line').waitFor()
  await expectShownIsStored(page)
  // What the runner does at a border of two steps, which a reply without tools does not have.
  const client = new pg.Client({ connectionString: stage.database.url })
  await client.connect()
  await client.query(
    `select holdfast.take_steering(tenant_id, session_id, id, attempt) from holdfast.turns where state = 'running'`,
  )
  await client.end()
  for (const look of ['as it came', 'after a reload']) {
    if (look === 'after a reload') await page.reload()
    await ownOn(page, 'and this').getByText('Taken into the reply above').waitFor()
    await expectShownIsStored(page)
  }
  await expectNotOfferedIsRefused(page)
  gates.of('wait').open()
  await untilStatusOn(page, 'complete')
  await expectShownIsStored(page)
})

test('an older reply does not say why a later one failed', async () => {
  await sendOn(page, 'fail')
  await untilStatusOn(page, 'failed')
  await repliedOn(page, /Its operator has to check the key/).waitFor()
  await buttonOn(page, 'Retry').click()
  await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await untilStatusOn(page, 'failed')
  await repliedOn(page, /Its operator has to check the key/).waitFor()
  await buttonOn(page, 'Previous reply').click()
  await page.getByRole('group', { name: 'reply 1 of 2' }).waitFor()
  await repliedOn(page, /There is no reply to this/).waitFor()
  expect(await repliedOn(page, /Its operator has to check the key/).count()).toBe(0)
  expect(await buttonOn(page, 'Retry').count()).toBe(0)
  await expectShownIsStored(page)
})

test('a reply may be left for another one while it is written', async () => {
  await sendOn(page, 'hello')
  await untilStatusOn(page, 'complete')
  stage.provider.script([{ text: `${words(0, 40)} ` }, { wait: gates.of('again').passed }])
  await buttonOn(page, 'Another reply').click()
  await untilStreamingOn(page)
  await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await expectShownIsStored(page)
  await buttonOn(page, 'Previous reply').click()
  await repliedOn(page, /Re hello/).waitFor()
  await expectShownIsStored(page)
  await expectNotOfferedIsRefused(page)
  await buttonOn(page, 'Next reply').click()
  await untilStreamingOn(page)
  gates.of('again').open()
  await untilStatusOn(page, 'complete')
  await expectShownIsStored(page)
})

test('earlier messages that were loaded stay, and an open editor among them, when others are shown (I5)', async () => {
  await sendOn(page, 'message 0')
  await untilStatusOn(page, 'complete')
  const { origin, hash } = new URL(page.url())
  const count = 30
  for (let at = 1; at < count; at++) {
    const data = { id: `m${at}`, text: `message ${at}` }
    const sent = await context.request.post(`${origin}/v1/sessions/${hash.slice(2)}/messages?wait=10`, { data })
    expect(sent.status()).toBe(200)
  }
  await page.reload()
  await repliedOn(page, /Re message 29/).waitFor()
  const shown = () => page.locator('article').count()
  expect(await shown()).toBe(50)
  await page.locator('.messages').evaluate((it) => it.scrollTo({ top: 0 }))
  await eventually(async () => (await shown()) === 2 * count)
  // What may be done with a message is drawn where the reader is.
  await page.locator('.messages').evaluate((it) => it.scrollTo({ top: 0 }))
  await ownOn(page, 'message 0').getByRole('button', { name: 'Edit message' }).click()
  const editor = page.getByRole('textbox', { name: 'Edit message' })
  await editor.fill('written meanwhile')
  const second = await openTab(context, stage.site.origin, complaints)
  await buttonOn(second, 'Another reply').last().click()
  await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await untilStatusOn(page, 'complete')
  await buttonOn(second, 'Previous reply').click()
  await page.getByRole('group', { name: 'reply 1 of 2' }).waitFor()
  expect(await shown()).toBe(2 * count)
  expect(await editor.inputValue()).toBe('written meanwhile')
  // What changes among the earlier ones is shown, too.
  const client = new pg.Client({ connectionString: stage.database.url })
  await client.connect()
  await client.query(`update holdfast.messages set parts = '[{"type":"text","text":"another"}]' where id = 'm1'`)
  await client.end()
  await buttonOn(second, 'Next reply').click()
  await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await ownOn(page, 'another').waitFor()
})
