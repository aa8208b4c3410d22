/** Calls of tools on the page, and turns that wait for people there: asked on every device, answered once (P110–P116). */
import pg from 'pg'
import type { BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import {
  buttonOn,
  expectNotOfferedIsRefused,
  expectShownIsStored,
  ownOn,
  repliedOn,
  sendOn,
  storedOf,
  untilStatusOn,
} from './page.ts'
import { faultsOf, openStage, openTab, picture, type Stage } from './stage.ts'
import { type Site, startSite } from './support.ts'

let stage: Stage
/** With the demo model, which has tools. */
let site: Site
let database: Awaited<ReturnType<typeof freshDatabase>>
let context: BrowserContext
let page: Page
let complaints: string[]

beforeAll(async () => {
  stage = await openStage()
  const { assets, provider } = stage
  // Of its own: the other server would answer from its provider what it finds first.
  database = await freshDatabase(18)
  site = await startSite({
    dir: assets.dir,
    database: database.url,
    provider: provider.url,
    env: { OPENAI_API_KEY: '' },
  })
})
afterAll(async () => {
  await site.close()
  await Promise.all([stage.close(), database.drop()])
})
beforeEach(async () => {
  complaints = []
  context = await stage.browser.newContext({ viewport: { width: 1280, height: 844 } })
  page = await openTab(context, site.origin, complaints)
})
afterEach(async () => {
  await context.close()
  expect(complaints).toEqual([])
})

/** Another server's: cookies know no ports, so a page of the first one would take its guest away. */
async function openAlone(origin: string): Promise<Page> {
  await page.close()
  await context.clearCookies()
  return await openTab(context, origin, complaints)
}

const question = (tab: Page) => repliedOn(tab, /May send_email run/)
const asked = (tab: Page) => question(tab).waitFor()
const call = (tab: Page, name: string) => tab.getByRole('region', { name: `Tool ${name}` })

/** Of the session, that have begun and have no result. */
async function begunCalls(session: string): Promise<number> {
  const client = new pg.Client({ connectionString: database.url })
  await client.connect()
  const { rowCount } = await client.query(`select from holdfast.tool_calls where session_id = $1 and state = 'begun'`, [
    session,
  ])
  await client.end()
  return rowCount ?? 0
}

test('a call is shown with its input and output, folded, by keyboard, and as it is stored after a reload', async () => {
  await sendOn(page, 'roll the dice')
  await call(page, 'dice').getByText('Running').waitFor()
  await untilStatusOn(page, 'complete')
  for (const look of ['as it came', 'after a reload']) {
    if (look === 'after a reload') await page.reload()
    await call(page, 'dice').getByText('Done').waitFor()
    await expectShownIsStored(page)
    expect(await call(page, 'dice').getByText('Output').isVisible()).toBe(false)
    await call(page, 'dice').locator('summary').focus()
    await page.keyboard.press('Enter')
    const stored = (await storedOf(page)).messages[1]!.parts.find(({ type }) => type === 'tool-dice')
    const { input, output } = stored as unknown as { input: unknown; output: unknown }
    const shown = await call(page, 'dice').locator('pre').allTextContents()
    expect(shown.map((text) => JSON.parse(text) as unknown)).toEqual([input, output])
  }
  await picture(page, 'done')
  expect(await faultsOf(page, 'done')).toEqual([])
})

test('a question is asked on every device and after a reload, and what one approves the others see at once (P112, P114)', async () => {
  const other = await openTab(context, page.url(), complaints)
  await sendOn(page, 'send an email')
  await asked(page)
  await page.getByText(/^Waits for approval until/).waitFor()
  await call(page, 'send_email').getByText('crew@example.com').waitFor()
  await page.reload()
  await asked(page)
  await other.goto(page.url())
  await other.reload()
  await asked(other)
  await expectShownIsStored(page)
  await expectNotOfferedIsRefused(page)
  await picture(page, 'waiting')
  expect(await faultsOf(page, 'waiting')).toEqual([])
  await buttonOn(other, 'Approve').click()
  for (const tab of [page, other]) {
    await question(tab).waitFor({ state: 'detached' })
    await repliedOn(tab, /you approved the email/).waitFor()
    await untilStatusOn(tab, 'complete')
    await call(tab, 'send_email').getByText('Done').waitFor()
    await expectShownIsStored(tab)
  }
  const steps = page.getByRole('list', { name: 'What happened to the last message' }).locator('.knot-label')
  await page.setViewportSize({ width: 1280, height: 844 })
  const told = ['Stored', 'Queued', 'Attempt 1', 'Waits', 'Approved', 'Attempt 2', 'Complete']
  await eventually(async () => (await steps.allTextContents()).join() === told.join())
})

test('a refusal takes a reason, by keyboard, and Escape there leaves the question as it was', async () => {
  await sendOn(page, 'send an email')
  await asked(page)
  await buttonOn(page, 'Refuse').focus()
  await page.keyboard.press('Enter')
  const reason = page.getByRole('textbox', { name: 'Reason, optional' })
  await reason.waitFor()
  await page.keyboard.press('Escape')
  await buttonOn(page, 'Refuse').and(page.locator(':focus')).waitFor()
  await page.keyboard.press('Enter')
  await reason.fill('not today')
  await picture(page, 'refusing')
  expect(await faultsOf(page, 'refusing')).toEqual([])
  const sending = page.waitForRequest(/\/approvals\//)
  await reason.press('Enter')
  // It names what it answers: sent again it is none to a later question of the same id.
  expect((await sending).postDataJSON()).toMatchObject({ approved: false, turnId: expect.any(String), attempt: 1 })
  await repliedOn(page, /no email was sent. You said why: not today/).waitFor()
  await untilStatusOn(page, 'complete')
  await call(page, 'send_email').getByText('Refused').waitFor()
  await call(page, 'send_email').locator('summary').click()
  await call(page, 'send_email').getByText('not today').waitFor()
  await expectShownIsStored(page)
})

test('an answer that came too late is told in the server’s words, where it was given (P114)', async () => {
  await sendOn(page, 'send an email')
  await asked(page)
  // The page does not hear of the other's answer: its connection has died without a word.
  expect(site.silence()).toBeGreaterThan(0)
  const { origin, hash } = new URL(page.url())
  const { turns } = (await storedOf(page)) as unknown as { turns: { approvals: { id: string }[] }[] }
  const path = `${origin}/v1/sessions/${hash.slice(2)}/approvals/${turns[0]!.approvals[0]!.id}`
  expect((await context.request.post(path, { data: { approved: false } })).status()).toBe(200)
  await buttonOn(page, 'Approve').click()
  const answer = await context.request.post(path, { data: { approved: true } })
  expect(answer.status()).toBe(409)
  const { detail } = (await answer.json()) as { detail: string }
  await page.getByRole('alert').getByText(detail).waitFor()
})

test('a waiting reply can be stopped, and a message behind it is answered then (P116)', async () => {
  await sendOn(page, 'send an email')
  await asked(page)
  await sendOn(page, 'roll the dice')
  await ownOn(page, 'roll the dice').getByText('Queued, next in line').waitFor()
  await expectShownIsStored(page)
  await buttonOn(page, 'Stop').last().click()
  await call(page, 'send_email')
    .getByText(/Stopped|Failed/)
    .waitFor()
  await question(page).waitFor({ state: 'detached' })
  await repliedOn(page, /The dice show/).waitFor()
  await untilStatusOn(page, 'complete')
  await expectShownIsStored(page)
})

test('the server is killed while it waits, and goes on when the answer comes (I9)', async () => {
  await sendOn(page, 'send an email')
  await asked(page)
  await buttonOn(page, 'Kill the server').click()
  await page.getByText('Reconnecting').waitFor()
  await buttonOn(page, 'Approve').click()
  await repliedOn(page, /you approved the email/).waitFor()
  await untilStatusOn(page, 'complete')
  await expectShownIsStored(page)
})

test.each([
  { choice: 'Run again', told: /you approved the email/, fate: 'Done' },
  { choice: 'Do not run', told: /I go on without the tool/, fate: 'Failed' },
])(
  'killed while a call ran, the page says that nobody knows and asks whether to run it again: $choice (I3)',
  async ({ choice, told, fate }) => {
    await sendOn(page, 'send an email')
    await asked(page)
    await buttonOn(page, 'Approve').click()
    await call(page, 'send_email').getByText('Running').or(call(page, 'send_email').getByText('Approved')).waitFor()
    const session = new URL(page.url()).hash.slice(2)
    await eventually(async () => (await begunCalls(session)) === 1)
    await buttonOn(page, 'Kill the server').click()
    await repliedOn(page, /It is not known whether this ran/).waitFor()
    await page.getByText(/^Waits for an answer until/).waitFor()
    await expectShownIsStored(page)
    await expectNotOfferedIsRefused(page)
    await picture(page, 'uncertain')
    expect(await faultsOf(page, 'uncertain')).toEqual([])
    await buttonOn(page, choice).click()
    if (choice !== 'Run again') await page.getByRole('textbox', { name: 'Reason, optional' }).press('Enter')
    await repliedOn(page, told).waitFor()
    await untilStatusOn(page, 'complete')
    await call(page, 'send_email').getByText(fate, { exact: true }).waitFor()
    await expectShownIsStored(page)
  },
)

test.each([
  { choice: 'Go on', told: /The dice show/, status: 'complete' },
  { choice: 'End it', told: /I roll two dice/, status: 'stopped' },
])(
  'a reply that has used its tokens asks whether it may go on, and keeps what it has: $choice (P117)',
  async ({ choice, told, status }) => {
    const { assets, provider } = stage
    const own = await freshDatabase(18)
    onTestFinished(() => own.drop())
    const env = { OPENAI_API_KEY: '', HOLDFAST_TOKENS_MAX: '5' }
    const frugal = await startSite({ dir: assets.dir, database: own.url, provider: provider.url, env })
    onTestFinished(() => frugal.close())
    const tab = await openAlone(frugal.origin)
    await sendOn(tab, 'roll the dice')
    await repliedOn(tab, /It has used \d+ tokens of 5. Let it go on/).waitFor()
    await tab.getByText(/^Waits for an answer until/).waitFor()
    await expectShownIsStored(tab)
    await expectNotOfferedIsRefused(tab)
    await picture(tab, 'budget')
    expect(await faultsOf(tab, 'budget')).toEqual([])
    const rolled = await call(tab, 'dice').locator('pre').last().textContent()
    await buttonOn(tab, choice).click()
    if (choice !== 'Go on') await tab.getByRole('textbox', { name: 'Reason, optional' }).press('Enter')
    await untilStatusOn(tab, status)
    await repliedOn(tab, told).first().waitFor()
    expect(await call(tab, 'dice').locator('pre').last().textContent()).toBe(rolled)
    await expectShownIsStored(tab)
    await tab.close()
  },
)

test('a call that a client runs shows that it waits for a device, and goes on when one has answered (P113)', async () => {
  stage.provider.script(({ body }) =>
    body.messages.some(({ role }: { role: string }) => role === 'tool')
      ? [{ text: 'You are at home.' }]
      : [{ text: 'Let me see.' }, { tool: { id: 'k1', name: 'where', input: ['{"place":"here"}'] } }],
  )
  const tab = await openAlone(stage.site.origin)
  await sendOn(tab, 'where am I')
  await call(tab, 'where').getByText('Waits for a device').waitFor()
  await tab.getByText(/^Waits for a device until/).waitFor()
  await expectShownIsStored(tab)
  expect(await faultsOf(tab, 'device')).toEqual([])
  const { origin, hash } = new URL(tab.url())
  const path = `${origin}/v1/sessions/${hash.slice(2)}/tool-results/k1`
  expect((await context.request.post(path, { data: { output: 'home' } })).status()).toBe(200)
  await repliedOn(tab, /You are at home/).waitFor()
  await call(tab, 'where').getByText('Done').waitFor()
})
