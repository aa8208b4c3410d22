import pg from 'pg'
import type { BrowserContext, Page, Route } from 'playwright-core'
import { expect, test } from 'vitest'
import { gate } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import type { Provider, ProviderRequest } from '../support/provider.mjs'
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
  words,
} from './page.ts'
import { faultsOf, gatesOf, openTab, type Stage, type Step, sceneForEach } from './stage.ts'
import { type Site, startSite } from './support.ts'

let stage: Stage
let provider: Provider
let site: Site
let context: BrowserContext
let page: Page
let complaints: string[]
const gates = gatesOf()

sceneForEach({ gates, answerTo, height: 800 }, (scene) => {
  ;({ stage, context, page, complaints } = scene)
  ;({ provider, site } = stage)
  mended = false
})

const newTab = (at = site) => openTab(context, at.origin, complaints)

/** What `wait` and its number say goes on when this is called. */
const goOn = (said: string) => gates.of(said).open()
/** From now on what failed is answered. */
let mended = false

function answerTo({ body, index }: ProviderRequest): Step[] {
  const said: string = body.messages.findLast(({ role }: { role: string }) => role === 'user').content
  if (said.includes('fail') && !mended) return [{ status: 401, body: { error: {} } }]
  if (said.includes('refuse') && !mended) return [{ status: 400, body: { error: {} } }]
  if (said.includes('limited') && !mended) return [{ status: 429, headers: { 'retry-after': '120' } }]
  if (said.includes('overloaded') && !mended) return [{ status: 503, headers: { 'retry-after': '30' } }]
  if (said.includes('wait'))
    return [{ text: `${words(0, 40)} ` }, { wait: gates.of(said).passed }, { text: words(40, 80) }]
  return [{ text: `Re ${said} ${index}` }]
}

const composer = (tab = page) => composerOn(tab)
const send = (text: string, tab = page) => sendOn(tab, text)
const own = (text: string, tab = page) => ownOn(tab, text)
const button = (name: string, tab = page) => buttonOn(tab, name)
const untilStatus = (status: string, tab = page) => untilStatusOn(tab, status)
const untilStreaming = (tab = page) => untilStreamingOn(tab)
const replied = (text: RegExp, tab = page) => repliedOn(tab, text)
/** What has the keyboard, by its label. */
const untilFocused = (name: string) =>
  eventually(async () => (await page.evaluate(() => document.activeElement?.getAttribute('aria-label'))) === name)
const ownTexts = (tab = page) => tab.locator('article.own .own-text').allTextContents()
const siteSettings = () => ({ dir: stage.assets.dir, database: stage.database.url, provider: provider.url })

/** For the server: what was sent before is not counted any more. */
async function aMinutePasses(): Promise<void> {
  const client = new pg.Client({ connectionString: stage.database.url })
  await client.connect()
  await client.query('delete from holdfast.limits')
  await client.end()
}

const commands = (name: string) => site.passed.filter((line) => line.endsWith(`/${name}`))

test('a failed reply says why, and Retry answers the same message, in every tab (R0.6, R4.4, I10)', async () => {
  await send('this will fail')
  await untilStatus('failed')
  const second = await newTab()
  await untilStatus('failed', second)
  await replied(/Its operator has to check the key/).waitFor()
  const before = await storedOf(page)
  mended = true
  await button('Retry').focus()
  await page.keyboard.press('Enter')
  await Promise.all([untilStatus('complete'), untilStatus('complete', second)])
  await untilFocused('Message')
  const after = await storedOf(page)
  expect(after.messages[0]).toMatchObject({ id: before.messages[0]!.id, error: null })
  expect(after.messages[1]).toMatchObject({ round: 2, status: 'complete' })
  expect(await page.locator('.failure').count()).toBe(0)
  await Promise.all([expectShownIsStored(page), expectShownIsStored(second)])
})

test('Retry in two tabs at once, and one whose answer is lost, make one new round (R4.4, I10)', async () => {
  await send('fail and wait')
  await untilStatus('failed')
  const second = await newTab()
  await untilStatus('failed', second)
  mended = true
  const lost = site.loseAnswer('retry')
  // Each tab has asked before either is answered: the first answer takes the other tab's button away.
  const both = gate()
  let asked = 0
  for (const tab of [page, second]) {
    const hold = async (route: Route) => {
      asked++
      if (asked === 2) both.open()
      await both.passed
      await route.continue()
    }
    await tab.route('**/retry', hold, { times: 1 })
  }
  await Promise.all([button('Retry').click(), button('Retry', second).click()])
  await lost
  await Promise.all([untilStreaming(), untilStreaming(second)])
  await eventually(async () => commands('retry').length >= 3)
  goOn('fail and wait')
  await Promise.all([untilStatus('complete'), untilStatus('complete', second)])
  expect((await storedOf(page)).messages[1]).toMatchObject({ round: 2 })
  await Promise.all([expectShownIsStored(page), expectShownIsStored(second)])
})

test('what cannot succeed has no Retry: the message is changed and sent again (R0.6)', async () => {
  await send('refuse this')
  await untilStatus('failed')
  await replied(/Change the message and send it as a new one/).waitFor()
  expect(await button('Retry').count()).toBe(0)
  await button('Edit message').click()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('take this')
  await page.keyboard.press('Enter')
  await untilStatus('complete')
  await expectShownIsStored(page)
})

test('a model that wants to be left alone for long: the page says until when, and Retry stays possible (R2.3)', async () => {
  await send('limited')
  await replied(/The model asks to be left alone until \d/).waitFor()
  mended = true
  await button('Retry').click()
  await replied(/Re limited/).waitFor()
})

test('a stop that cannot reach the server says so, and is carried out when it is back (R2.3, I11)', async () => {
  await page.clock.install()
  await page.reload()
  await send('wait')
  await untilStreaming()
  let asked = 0
  await page.route('**/stop', (route) => {
    asked++
    return route.abort()
  })
  await button('Stop').waitFor()
  await page.keyboard.press('Escape')
  await eventually(async () => asked >= 1)
  const notice = page.getByRole('alert').getByText('Not stopped. The server does not answer.')
  await eventually(async () => {
    await page.clock.fastForward(5_000)
    return await notice.isVisible()
  })
  await page.unroute('**/stop')
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  site.setDown(true)
  site.setDown(false)
  await untilStatus('stopped')
  await expectShownIsStored(page)
})

test('a stop that is still tried says nothing of the next reply, which can be stopped meanwhile (R2.3, I11)', async () => {
  await send('wait 1')
  await untilStreaming()
  await send('wait 2')
  await own('wait 2').getByText('Queued').waitFor()
  const [{ id: first } = { id: '' }] = (await storedOf(page)).messages
  let asked = 0
  await page.route(`**/${first}/stop`, (route) => {
    asked++
    return route.abort()
  })
  await button('Stop').last().click()
  await eventually(async () => asked >= 1)
  goOn('wait 1')
  await untilStatus('complete')
  await replied(/word39/)
    .nth(1)
    .waitFor()
  await page.locator('[aria-keyshortcuts="Escape"]:not([aria-disabled="true"])').waitFor()
  expect(await page.getByRole('alert').count()).toBe(0)
  await page.keyboard.press('Escape')
  await untilStatus('stopped')
  await expectShownIsStored(page)
})

test('a stop that waits to be tried again is tried at once when the connection is back (R2.3, I11)', async () => {
  await page.clock.install()
  await page.reload()
  await send('wait')
  await untilStreaming()
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  await page.clock.pauseAt(Date.now() + 3_600_000)
  await page.route('**/stop', (route) => route.abort(), { times: 1 })
  const failed = page.waitForEvent('requestfailed', (request) => request.url().endsWith('/stop'))
  await page.keyboard.press('Escape')
  await failed
  site.setDown(true)
  site.setDown(false)
  // Less than the shortest pause in all: what is due at once happens, and what waits does not.
  let ranMs = 0
  await eventually(async () => {
    if (ranMs < 200) await page.clock.runFor(10)
    ranMs += 10
    return commands('stop').length === 1
  })
  await page.clock.resume()
  await untilStatus('stopped')
})

test('Escape means one thing at a time: it stops the reply from the list of chats, but not what it has closed there or in an editor', async () => {
  await send('hello')
  await untilStatus('complete')
  await send('wait')
  await untilStreaming()
  await send('behind')
  const isStreaming = () => page.locator('article.reply[data-status="streaming"]').count()
  const name = await page.locator('nav .session .font-medium').first().textContent()
  await button(`Rename “${name}”`).press('Enter')
  await page.getByRole('textbox', { name: 'Title' }).press('Escape')
  await page.locator('.session-open:focus').waitFor()
  await button(`Delete “${name}”`).press('Enter')
  await button('Keep').press('Escape')
  await page.locator('.session-open:focus').waitFor()

  await own('behind').getByRole('button', { name: 'Edit message' }).click()
  await button('Cancel').focus()
  await page.keyboard.down('Escape')
  // Held down: the browser sends it again and again.
  await page.keyboard.down('Escape')
  await page.keyboard.up('Escape')
  await own('behind').getByRole('button', { name: 'Edit message' }).waitFor()
  expect(commands('stop')).toEqual([])
  expect(await isStreaming()).toBe(1)

  await page.locator('.session-open').focus()
  await page.keyboard.press('Escape')
  await page.locator('article.reply[data-status="stopped"]').waitFor()
})

test('another reply, which counts as a message, counts down where it comes too soon, and can be asked for again then (R2.3)', async () => {
  const limited = await startSite({ ...siteSettings(), sendsPerMinute: 1 })
  const tab = await newTab(limited)
  await tab.clock.install()
  await tab.reload()
  await send('hello', tab)
  await untilStatus('complete', tab)
  await button('Another reply', tab).click()
  await replied(/You can try again in (60|5\d) s/, tab).waitFor()
  expect(await tab.getByRole('status').getByText('Too many at once').isVisible()).toBe(true)
  await button('Another reply', tab).click({ force: true })
  expect(limited.passed.filter((line) => line.endsWith('/regenerate'))).toHaveLength(1)
  await aMinutePasses()
  await tab.clock.fastForward(60_000)
  await replied(/You can try again/, tab).waitFor({ state: 'detached' })
  await button('Another reply', tab).click()
  await tab.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await untilStatus('complete', tab)
  await tab.close()
  await limited.close()
})

test('a screen reader is told what waits, for how long, and what was given back', async () => {
  const log = page.getByRole('log').locator('p')
  await send('wait')
  await untilStreaming()
  await send('second')
  await log.getByText('Queued, next in line.').waitFor()
  await own('second').getByRole('button', { name: 'Withdraw' }).click()
  await log.getByText('Its text is back in the field.').waitFor()
  goOn('wait')
  await log.getByText('The reply is complete.').waitFor()
  await send('overloaded')
  await log.getByText(/Attempt 1 failed, again in [23]\d s/).waitFor()
  await page.reload()
  await page.getByText(/Attempt 1 failed/).waitFor()
  expect(await log.count()).toBe(1)
  await button('Stop').click()
  await untilStatus('stopped')
})

test('who writes on while another branch is loaded keeps the keyboard there', async () => {
  await send('first')
  await untilStatus('complete')
  await button('Another reply').click()
  await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await untilStatus('complete')
  const shown = gate()
  await page.route(/\/v1\/sessions\/[^/?]+$/, async (route) => {
    await shown.passed
    await route.continue()
  })
  await button('Previous reply').click()
  await composer().pressSequentially('I am wri')
  shown.open()
  await page.getByRole('group', { name: 'reply 1 of 2' }).waitFor()
  await page.keyboard.type('ting')
  expect(await composer().inputValue()).toBe('I am writing')
})

test('Escape stops the reply: its text stays, is marked as stopped in every tab, and may be tried again (R0.6, I11)', async () => {
  await send('wait')
  await untilStreaming()
  const second = await newTab()
  await untilStreaming(second)
  await page.keyboard.press('Escape')
  await Promise.all([untilStatus('stopped'), untilStatus('stopped', second)])
  await second.getByText('Stopped. What was written is kept.').waitFor()
  await button('Stop').waitFor({ state: 'detached' })
  await Promise.all([expectShownIsStored(page), expectShownIsStored(second)])
  goOn('wait')
  await button('Retry', second).click()
  await Promise.all([untilStatus('complete'), untilStatus('complete', second)])
  await Promise.all([expectShownIsStored(page), expectShownIsStored(second)])
})

test('a reply that backs off counts down, over a reload too, and can be stopped (R2.3, I11)', async () => {
  await send('overloaded')
  await replied(/Attempt 1 failed, again in [23]\d s/).waitFor()
  await page.reload()
  await replied(/Attempt 1 failed, again in (30|[12]\d) s/).waitFor()
  await button('Stop').click()
  await page.getByText('Stopped before anything was written.').waitFor()
  await button('Retry').waitFor()
})

test('while a reply runs the next messages wait in line, are edited in place and withdrawn into the composer, in every tab (I11)', async () => {
  await send('wait')
  await untilStreaming()
  await send('second')
  await send('third')
  const second = await newTab()
  for (const tab of [page, second]) {
    await own('second', tab).getByText('Queued, next in line').waitFor()
    await own('third', tab).getByText('Queued, 2nd in line').waitFor()
  }
  const before = await storedOf(page)

  await own('third').getByRole('button', { name: 'Edit message' }).press('Enter')
  await untilFocused('Edit message')
  await page.keyboard.press('Escape')
  await eventually(
    async () =>
      (await page.evaluate(() => document.activeElement?.closest('article')?.textContent))?.includes('third') === true,
  )
  expect(await ownTexts()).toEqual(['wait', 'second', 'third'])
  await page.keyboard.press('Enter')
  await page.getByRole('textbox', { name: 'Edit message' }).fill('the third')
  await page.keyboard.press('Enter')
  await own('the third', second).waitFor()
  expect((await storedOf(page)).messages.map(({ id }) => id)).toEqual(before.messages.map(({ id }) => id))
  await untilFocused('Message')

  await composer().fill('a draft')
  const lost = site.loseAnswer('stop')
  await own('second').getByRole('button', { name: 'Withdraw' }).press('Enter')
  await lost
  await own('second', second).waitFor({ state: 'detached' })
  await eventually(async () => (await composer().inputValue()) === 'a draft\n\nsecond')
  await own('the third', second).getByText('Queued, next in line').waitFor()
  expect(await composer(second).inputValue()).not.toContain('second')
  await untilFocused('Message')

  goOn('wait')
  for (const tab of [page, second]) {
    await replied(/Re the third/, tab).waitFor()
    await untilStatus('complete', tab)
    await expectShownIsStored(tab)
  }
})

test('a withdrawal whose answer the page does not live to hear gives the text back to the next page (I16)', async () => {
  await send('wait')
  await untilStreaming()
  await send('do not lose me')
  await own('do not lose me').getByText('Queued').waitFor()
  await page.route('**/stop', async (route) => {
    await route.fetch()
    await route.abort()
  })
  await own('do not lose me').getByRole('button', { name: 'Withdraw' }).click()
  await own('do not lose me').waitFor({ state: 'detached' })
  expect(await composer().inputValue()).toBe('')
  await page.close()
  page = await newTab()
  await eventually(async () => (await composer().inputValue()) === 'do not lose me')
  expect(await ownTexts()).toEqual(['wait'])
  goOn('wait')
  await untilStatus('complete')
})

test('a message may be sent now: it stops the reply that is written, and is answered at once (I11)', async () => {
  await send('wait')
  await untilStreaming()
  await composer().fill('rather this')
  await button('Send now').click()
  await replied(/Re rather this/).waitFor()
  await page.locator('article.reply[data-status="stopped"]').getByText('word39').waitFor()
  await untilFocused('Message')
  await send('wait 2')
  await untilStreaming()
  await composer().fill('and this')
  await page.keyboard.press('Control+Enter')
  await replied(/Re and this/).waitFor()
  await untilStatus('complete')
  expect(await page.locator('article.reply[data-status="stopped"]').count()).toBe(2)
  await expectShownIsStored(page)
})

test('Stop right after sending stops or withdraws, and the text is in the chat or in the composer (I11, I16)', async () => {
  await send('hello')
  await untilStatus('complete')
  provider.script(() => [{ wait: gates.of('x').passed }, { text: 'late' }])
  await send('too quick')
  await button('Stop').click()
  await button('Stop').waitFor({ state: 'detached' })
  await eventually(async () => {
    const isStopped = (await page.locator('article.reply[data-status="stopped"]').count()) === 1
    return isStopped || (await composer().inputValue()) === 'too quick'
  })
  await expectShownIsStored(page)
})

test('an edit of an answered message begins a branch, and another reply stands beside the first, in every tab (I10)', async () => {
  await send('first')
  await untilStatus('complete')
  await send('second')
  await replied(/Re second/).waitFor()
  const second = await newTab()
  await replied(/Re second/, second).waitFor()
  await own('first').getByRole('button', { name: 'Edit message' }).click()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('the first')
  const lost = site.loseAnswer('edit')
  await page.keyboard.press('Enter')
  await lost
  for (const tab of [page, second]) {
    await replied(/Re the first/, tab).waitFor()
    await tab.getByRole('group', { name: 'version 2 of 2' }).waitFor()
    expect(await ownTexts(tab)).toEqual(['the first'])
  }
  await untilFocused('Message')
  await eventually(async () => commands('edit').length === 2)
  await untilStatus('complete')
  const first = await page.locator('article.reply').getAttribute('data-reply')
  await button('Another reply').press('Enter')
  for (const tab of [page, second]) {
    await tab.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
    expect(await tab.locator('article.reply').getAttribute('data-reply')).not.toBe(first)
    await expectShownIsStored(tab)
  }
})

test('branches are switched by keyboard, and every tab and a reload show the one that was chosen (I13)', async () => {
  await send('first')
  await untilStatus('complete')
  await send('second')
  await replied(/Re second/).waitFor()
  for (const text of ['the first', 'the very first']) {
    await button('Edit message').first().click()
    await page.getByRole('textbox', { name: 'Edit message' }).fill(text)
    await page.keyboard.press('Enter')
    await replied(new RegExp(`Re ${text}`)).waitFor()
    await untilStatus('complete')
  }
  const second = await newTab()
  await second.getByRole('group', { name: 'version 3 of 3' }).waitFor()

  await button('Previous version').focus()
  await page.keyboard.press('Enter')
  await page.getByRole('group', { name: 'version 2 of 3' }).waitFor()
  await untilFocused('Previous version')
  await page.keyboard.press('Enter')
  for (const tab of [page, second]) {
    await tab.getByRole('group', { name: 'version 1 of 3' }).waitFor()
    await replied(/Re second/, tab).waitFor()
    expect(await ownTexts(tab)).toEqual(['first', 'second'])
    await expectShownIsStored(tab)
  }
  await untilFocused('Previous version')
  await page.keyboard.press('Enter')
  expect(commands('select')).toHaveLength(2)

  await page.reload()
  await page.getByRole('group', { name: 'version 1 of 3' }).waitFor()
  const lost = site.loseAnswer('select')
  await button('Next version').click()
  await lost
  for (const tab of [page, second]) {
    await tab.getByRole('group', { name: 'version 2 of 3' }).waitFor()
    await replied(/Re the first/, tab).waitFor()
  }
  await button('Another reply').click()
  await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await button('Previous reply', second).click()
  for (const tab of [page, second]) {
    await tab.getByRole('group', { name: 'reply 1 of 2' }).waitFor()
    await expectShownIsStored(tab)
  }
})

test('while a reply runs in another branch Stop stays, and its text is there when its branch is shown again (I7, I11)', async () => {
  await send('first')
  await untilStatus('complete')
  await button('Edit message').click()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('wait')
  await page.keyboard.press('Enter')
  await untilStreaming()
  await button('Previous version').click()
  await replied(/Re first/).waitFor()
  await button('Stop').waitFor()
  await button('Next version').click()
  await untilStreaming()
  await button('Previous version').click()
  await replied(/Re first/).waitFor()
  await button('Stop').click()
  await button('Stop').waitFor({ state: 'detached' })
  await button('Next version').click()
  await untilStatus('stopped')
  await expectShownIsStored(page)
})

test('a refused command is told where it was given, in the server’s words, and what was written stays (R2.3)', async () => {
  await send('first')
  await untilStatus('complete')
  await button('Edit message').click()
  const editor = page.getByRole('textbox', { name: 'Edit message' })
  await editor.fill('written meanwhile')
  const second = await newTab()
  await send('wait', second)
  await untilStreaming()
  await editor.press('Enter')
  await own('').filter({ has: editor }).getByRole('alert').getByText('Stop it first, then ask again.').waitFor()
  expect(await editor.inputValue()).toBe('written meanwhile')
  goOn('wait')
  await page.locator('article.reply[data-status="complete"]').nth(1).waitFor()
  await editor.press('Enter')
  await replied(/Re written meanwhile/).waitFor()
  await expectShownIsStored(page)
})

test('who sends too fast sees a cooldown count down; the message waits and goes by itself (R2.3)', async () => {
  const limited = await startSite({ ...siteSettings(), sendsPerMinute: 1 })
  const tab = await newTab(limited)
  await tab.clock.install()
  await tab.reload()
  await send('in time', tab)
  await untilStatus('complete', tab)
  await send('too fast', tab)
  await send('behind it', tab)
  await own('too fast', tab)
    .getByText(/Sent by itself in (60|5\d) s/)
    .waitFor()
  await own('behind it', tab)
    .getByText(/Sent by itself in/)
    .waitFor()
  expect(await tab.getByRole('status').getByText('Too many at once').first().isVisible()).toBe(true)
  await tab.clock.fastForward(20_000)
  await own('too fast', tab)
    .getByText(/Sent by itself in (40|3\d) s/)
    .waitFor()
  await aMinutePasses()
  await tab.clock.fastForward(40_000)
  await replied(/Re too fast/, tab).waitFor()
  await tab.close()
  await limited.close()
})

test('in each state: axe finds nothing serious, nothing is wider than a phone, and motion is reduced (R0.6)', async () => {
  const found: string[] = []
  const check = async (state: string) => found.push(...(await faultsOf(page, state)))
  await send('this will fail')
  await untilStatus('failed')
  await check('failed')
  await send('wait')
  await untilStreaming()
  await send('second')
  await own('second').getByText('Queued').waitFor()
  await composer().fill('third')
  await check('queued')
  await button('Edit message').click()
  await check('editing')
  await page.keyboard.press('Escape')
  await own('second').getByRole('button', { name: 'Withdraw' }).click()
  await own('second').waitFor({ state: 'detached' })
  await page.keyboard.press('Escape')
  await untilStatus('stopped')
  await check('stopped')
  goOn('wait')
  await button('Retry').last().click()
  await page.getByRole('group', { name: 'reply 2 of 2' }).waitFor()
  await check('branches')
  expect(found).toEqual([])
})
