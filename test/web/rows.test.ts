/**
 * What was asked of a chat, row by row, as its user meets it. The rest is where it is tried with more care:
 *
 *   R0.6 Retry of a failed reply                      control.test.ts   R0.7 the dots after a reload       app.test.ts
 *   R2.3 refused: not sent, its text kept             app, list.test.ts R2.5 the queue, and what it says   list, app.test.ts
 *   R2.3 too many: a cooldown, and sent by itself     control.test.ts   R2.6 backoff that counts down      control.test.ts
 *   R2.7 cut, dead and killed, over socket and stream app.test.ts
 */
import pg from 'pg'
import type { BrowserContext, Page } from 'playwright-core'
import { afterEach, expect, test } from 'vitest'
import { gate } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { buttonOn, composerOn, ownOn, repliedOn, sendOn, storedOf, untilStatusOn, untilStreamingOn } from './page.ts'
import { faultsOf, gatesOf, picture, type Stage, saidTo, sceneForEach } from './stage.ts'

let stage: Stage
let page: Page
const gates = gatesOf()
const others: BrowserContext[] = []

sceneForEach({ gates }, (scene) => {
  ;({ stage, page } = scene)
})
afterEach(async () => {
  for (const each of others.splice(0)) await each.close()
})

const isLive = (tab: Page) => tab.getByRole('status').getByText('Live', { exact: true }).waitFor()

/** Another guest, in a browser of their own, who is a member of the chat that is shown. */
async function joined(role: 'member' | 'reader' = 'member'): Promise<Page> {
  const other = await stage.browser.newContext({ viewport: { width: 1280, height: 844 } })
  others.push(other)
  const { origin, hash } = new URL(page.url())
  const made = await other.request.post(`${origin}/v1/sessions`, { data: { title: 'Of their own' } })
  const own = (await made.json()) as { id: string }
  const snapshot = await other.request.get(`${origin}/v1/sessions/${own.id}`)
  const [member] = ((await snapshot.json()) as { members: { userId: string }[] }).members
  const client = new pg.Client({ connectionString: stage.database.url })
  await client.connect()
  await client.query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role)
     select tenant_id, id, $2, $3 from holdfast.sessions where id = $1`,
    [hash.slice(2), member?.userId, role],
  )
  await client.end()
  // Who is a member is told when a chat is loaded.
  await page.reload()
  await isLive(page)
  return await other.newPage()
}

test('R0.1: what is sent is acknowledged at once, while its reply is not there, and the writer may write on', async () => {
  await sendOn(page, 'wait')
  await ownOn(page, 'wait').getByText('Sent').waitFor()
  await untilStreamingOn(page)
  expect((await storedOf(page)).messages.map(({ role, status }) => [role, status])).toEqual([
    ['user', 'complete'],
    ['assistant', 'streaming'],
  ])
  await sendOn(page, 'and more')
  await ownOn(page, 'and more').getByText('Queued, next in line').waitFor()
  gates.of('wait').open()
  await repliedOn(page, /Re and more/).waitFor()
})

test('R0.4, R0.6: a reply that failed leaves the message, says why and offers Retry, which answers the same message', async () => {
  stage.provider.script([{ status: 401, body: { error: {} } }])
  await sendOn(page, 'hello')
  await untilStatusOn(page, 'failed')
  const { messages: before } = await storedOf(page)
  await ownOn(page, 'hello').getByText('Sent').waitFor()
  await repliedOn(page, /Its operator has to check the key/).waitFor()
  await repliedOn(page, /Your message is kept/).waitFor()
  stage.provider.script((request) => saidTo(request, gates))
  await buttonOn(page, 'Retry').click()
  await repliedOn(page, /Re hello/).waitFor()
  expect((await storedOf(page)).messages[0]).toMatchObject({ id: before[0]!.id })
})

test('R2.2: a message is shown before anything is sent, and is there after a reload whatever becomes of the sending', async () => {
  const asked = gate()
  await page.route('**/v1/**', async (route) => {
    await asked.passed
    await route.abort()
  })
  await sendOn(page, 'at once')
  await ownOn(page, 'at once').waitFor()
  expect(await composerOn(page).inputValue()).toBe('')
  expect(stage.site.passed.filter((line) => /^POST .*sessions/.test(line))).toEqual([])
  asked.open()
  await page.reload()
  await ownOn(page, 'at once').getByText('Waits for the network').waitFor()
  await page.unrouteAll()
  await repliedOn(page, /Re at once/).waitFor()
  // What was shown is shown again before the server has answered.
  await page.route('**/v1/**', (route) => route.abort())
  await page.reload()
  await ownOn(page, 'at once').waitFor()
  await repliedOn(page, /Re at once/).waitFor()
})

test('R2.3: where the network fails the message stands there with Retry, which sends it at once', async () => {
  await sendOn(page, 'hello')
  await repliedOn(page, /Re hello/).waitFor()
  // The page tries again by itself, too: so the network comes back with the press.
  await page.route('**/messages', async (route) => {
    const isPressed = await page.evaluate(() => document.documentElement.hasAttribute('data-pressed'))
    await (isPressed ? route.continue() : route.abort())
  })
  await sendOn(page, 'into the void')
  const own = ownOn(page, 'into the void')
  await own.getByText('Waits for the network').waitFor()
  // On a phone all that can be done with it stands in one line.
  await page.setViewportSize({ width: 390, height: 844 })
  const line = await own.locator('.status').boundingBox()
  expect(line?.height).toBeLessThan(40)
  await picture(page, 'waits')
  expect(await faultsOf(page, 'waits')).toEqual([])
  await page.evaluate(() => addEventListener('click', () => document.documentElement.setAttribute('data-pressed', '')))
  await own.getByRole('button', { name: 'Retry' }).click()
  await repliedOn(page, /Re into the void/).waitFor()
})

test('R2.3: what may be done with a message that was not sent stays under the finger while it is tried again', async () => {
  await sendOn(page, 'hello')
  await repliedOn(page, /Re hello/).waitFor()
  const refusal = { code: 'forbidden', detail: 'Not today.', retryable: false, status: 403 }
  let answered = gate()
  let tries = 0
  await page.route('**/messages', async (route) => {
    tries++
    await answered.passed
    await route.fulfill({ status: 403, json: refusal })
  })
  await sendOn(page, 'may I')
  const own = ownOn(page, 'may I')
  answered.open()
  await own.getByRole('alert').getByText('Not sent. Not today.').waitFor()
  const placesOf = () =>
    own.getByRole('button').evaluateAll((all) =>
      all.map((it) => {
        const { x, y } = it.getBoundingClientRect()
        return [it.getAttribute('title') ?? it.textContent, x, y, getComputedStyle(it).visibility]
      }),
    )
  const before = await placesOf()
  expect(before).toHaveLength(3)
  answered = gate()
  await own.getByRole('button', { name: 'Retry' }).click()
  await own.getByText('Sent again. Not today.').waitFor()
  expect(await placesOf()).toEqual(before)
  await own.getByRole('button', { name: 'Retry' }).click()
  expect(tries).toBe(2)
  answered.open()
  await own.getByRole('alert').getByText('Not sent. Not today.').waitFor()
  expect(await placesOf()).toEqual(before)
})

test('R2.3: where the service fails it is told, what was written can be changed, and goes when the service is back', async () => {
  await sendOn(page, 'hello')
  await repliedOn(page, /Re hello/).waitFor()
  const away = { code: 'unavailable', detail: 'Not just now.', retryable: true, status: 503 }
  await page.route('**/messages', (route) =>
    route.fulfill({
      status: 503,
      headers: { 'retry-after': '3' },
      contentType: 'application/problem+json',
      json: away,
    }),
  )
  await sendOn(page, 'kept')
  const own = ownOn(page, 'kept')
  await own.getByText('The server cannot take it now.').waitFor()
  await own.getByText(/Sent by itself in \d+ s/).waitFor()
  await own.getByRole('button', { name: 'Edit message' }).waitFor()
  await page.unroute('**/messages')
  await repliedOn(page, /Re kept/).waitFor()
})

test('R2.3: what the server would not take is not sent again, and says why where it stands', async () => {
  await sendOn(page, 'y'.repeat(250_001))
  const own = page.locator('article.own')
  await own.getByRole('alert').getByText('Not sent.').waitFor()
  const sent = () => stage.site.passed.filter((line) => line.endsWith('/messages')).length
  const before = sent()
  await own.getByRole('button', { name: 'Edit message' }).click()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('short')
  expect(sent()).toBe(before)
  await page.keyboard.press('Enter')
  await repliedOn(page, /Re short/).waitFor()
})

test('R2.4: that another member writes is seen, said at most every 3 s, and over when they stop or send (P144, P145)', async () => {
  await sendOn(page, 'hello')
  await repliedOn(page, /Re hello/).waitFor()
  const other = await joined()
  await other.clock.install()
  await other.goto(page.url())
  await isLive(other)
  const said = () => stage.site.passed.filter((line) => line.endsWith('/typing')).length
  const sign = page.getByRole('status').getByText(/^Guest .{4} is writing…/)
  await composerOn(other).pressSequentially('I wri')
  await sign.waitFor()
  expect(said()).toBe(1)
  await picture(page, 'typing')
  expect(await faultsOf(page, 'typing')).toEqual([])
  await other.clock.fastForward(3_100)
  await composerOn(other).pressSequentially('te')
  await eventually(async () => said() === 2)
  await composerOn(other).fill('')
  await sign.waitFor({ state: 'detached' })
  expect(said()).toBe(3)
  await other.clock.fastForward(3_100)
  await composerOn(other).pressSequentially('now')
  await sign.waitFor()
  await other.keyboard.press('Enter')
  await sign.waitFor({ state: 'detached' })
  await ownOn(page, 'now').waitFor()
  // Who is alone in a chat tells nobody.
  const before = said()
  await buttonOn(other, 'New chat').click()
  await sendOn(other, 'alone')
  await repliedOn(other, /Re alone/).waitFor()
  await composerOn(other).pressSequentially('still alone')
  expect(said()).toBe(before)
})

test('who wrote a message stands over it where another did, and what may be done with it is its writer’s alone (P10)', async () => {
  await sendOn(page, 'hello')
  await repliedOn(page, /Re hello/).waitFor()
  const other = await joined()
  await other.goto(page.url())
  const foreign = ownOn(other, 'hello')
  await foreign.getByText(/^Guest .{4}$/).waitFor()
  expect(await foreign.getAttribute('aria-label')).toMatch(/^Guest .{4}$/)
  expect(await foreign.getByRole('button').count()).toBe(0)
  await sendOn(other, 'wait')
  await untilStreamingOn(other)
  await sendOn(other, 'mine')
  await ownOn(other, 'mine').getByRole('button', { name: 'Withdraw' }).waitFor()
  await ownOn(other, 'mine').getByRole('button', { name: 'Edit message' }).waitFor()
  const seen = ownOn(page, 'mine')
  await seen.getByText('Queued, next in line').waitFor()
  expect(await seen.getByRole('button').count()).toBe(0)
  expect(await ownOn(page, 'hello').getAttribute('aria-label')).toBe('You')
  await picture(page, 'others')
  expect(await faultsOf(page, 'others')).toEqual([])
  gates.of('wait').open()
  await repliedOn(page, /Re mine/).waitFor()
})

test('who may only read a chat is offered nothing that the server would refuse (P13)', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  const reader = await joined('reader')
  await reader.goto(page.url())
  await reader.getByText('You may read this chat, and not write in it.').waitFor()
  gates.of('wait').open()
  await untilStatusOn(reader, 'complete')
  await reader.keyboard.press('Escape')
  const offered = await reader.locator('main').getByRole('button').allInnerTexts()
  expect(offered.filter((each) => /Retry|Edit|Withdraw|Stop|Another/.test(each))).toEqual([])
  expect(await composerOn(reader).count()).toBe(0)
  await picture(reader, 'reader')
  expect(await faultsOf(reader, 'reader')).toEqual([])
  expect(stage.site.passed.filter((line) => line.endsWith('/stop'))).toEqual([])
})

test('R2.4: a message is sending, stored, delivered and read, each shown by itself (P142, P143)', async () => {
  await sendOn(page, 'hello')
  await repliedOn(page, /Re hello/).waitFor()
  const other = await joined()
  const held = gate()
  await page.route('**/messages', async (route) => {
    await held.passed
    await route.continue()
  })
  await sendOn(page, 'do you see it')
  const own = ownOn(page, 'do you see it')
  await own.getByText('Sending…').waitFor()
  held.open()
  await own.getByText('Stored.').waitFor({ state: 'attached' })
  const { origin, hash } = new URL(page.url())
  const api = `${origin}/v1/sessions/${hash.slice(2)}`
  const { cursor } = (await (await other.request.get(api)).json()) as { cursor: string }
  await other.request.post(`${api}/receipts`, { data: { delivered: cursor } })
  await own.getByText('Delivered.').waitFor({ state: 'attached' })
  await other.goto(page.url())
  await own.getByText(/^Read by Guest .{4}\.$/).waitFor({ state: 'attached' })
})

test('R2.6: what fails for a while is tried again by itself, so often and no more, and then the user is told, with each attempt', async () => {
  stage.provider.script(({ body }) =>
    JSON.stringify(body).includes('again and again') ? [{ status: 503, headers: { 'retry-after': '0' } }] : [],
  )
  await sendOn(page, 'again and again')
  await untilStatusOn(page, 'failed')
  const asked = stage.provider.requests.filter(({ body }) => JSON.stringify(body).includes('again and again')).length
  expect(asked).toBeGreaterThan(1)
  await buttonOn(page, 'Retry').waitFor()
  // Each of them is told to who asks what happened.
  await buttonOn(page, 'What happened').click()
  const steps = page.getByRole('list', { name: 'What happened to this reply' }).locator('.knot-label')
  await eventually(async () => (await steps.allTextContents()).filter((each) => /^Attempt/.test(each)).length === asked)
  expect((await steps.allTextContents()).at(-1)).toBe('Failed')
})

test('what happened to any reply is told when it is asked, not only to the last: attempts, takeovers, times', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  const asked = stage.provider.nextRequest()
  await buttonOn(page, 'Kill the server').click()
  await asked
  gates.of('wait').open()
  await untilStatusOn(page, 'complete')
  await sendOn(page, 'second')
  await repliedOn(page, /Re second/).waitFor()
  await page.reload()
  await repliedOn(page, /Re second/).waitFor()
  const first = page.locator('article.reply').first()
  const button = first.getByRole('button', { name: 'What happened' })
  await button.focus()
  await page.keyboard.press('Enter')
  const steps = first.getByRole('list', { name: 'What happened to this reply' })
  await steps.getByText('Complete').waitFor()
  expect(await steps.locator('.knot-label').allTextContents()).toEqual([
    'Stored',
    'Queued',
    'Attempt 1',
    'Killed',
    'Attempt 2',
    'Complete',
  ])
  expect(await steps.locator('.knot-time').last().textContent()).toMatch(/^\d.* (ms|s)$/)
  await picture(page, 'happened')
  expect(await faultsOf(page, 'happened')).toEqual([])
  await page.keyboard.press('Enter')
  await steps.waitFor({ state: 'detached' })
  expect(await button.evaluate((it) => it === document.activeElement)).toBe(true)
})
