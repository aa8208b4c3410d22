/**
 * What people and models write to run a script in a reader's page or to carry something away, through everything that the
 * page shows in front of the real server. markdown.test.ts draws each text alone, and cut at every border.
 */
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import type { ProviderRequest } from '../support/provider.mjs'
import { payloads } from './payloads.ts'
import { openStage, openTab, type Stage, type Step } from './stage.ts'

let stage: Stage
let context: BrowserContext
let page: Page
let canary: Server
let texts: string[]
let complaints: string[]
/** What the canary heard, what left the page, and the dialogs that opened. */
const escaped: string[] = []

beforeAll(async () => {
  stage = await openStage()
  canary = createServer((incoming, outgoing) => {
    escaped.push(`heard ${incoming.url}`)
    outgoing.end()
  }).listen(0, '127.0.0.1')
  await once(canary, 'listening')
  // No message may have a zero in it.
  texts = payloads(`http://127.0.0.1:${(canary.address() as AddressInfo).port}`).map(({ text }) =>
    text.replaceAll('\0', ''),
  )
})
afterAll(async () => {
  canary.closeAllConnections()
  canary.close()
  await stage.close()
})
beforeEach(async () => {
  complaints = []
  escaped.length = 0
  stage.provider.script(echo)
  context = await stage.browser.newContext({ viewport: { width: 1280, height: 844 } })
  const made = await context.request.post(api(''), { data: { id: `s${Date.now()}`, title: 'Hostile' } })
  page = await openTab(context, `${stage.site.origin}/#/${((await made.json()) as { id: string }).id}`, complaints)
  page.on('request', (request) => {
    if (new URL(request.url()).host !== new URL(stage.site.origin).host) escaped.push(`left ${request.url()}`)
  })
  page.on('dialog', (dialog) => {
    escaped.push(`dialog ${dialog.message()}`)
    void dialog.dismiss()
  })
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
})
afterEach(async () => {
  await context.close()
  await eventually(async () => stage.site.openStreams() === 0)
})

const api = (path: string) => `${stage.site.origin}/v1/sessions${path}`
const session = () => new URL(page.url()).hash.slice(2)

/** The model says what it was told, in pieces. */
function echo({ body }: ProviderRequest): Step[] {
  const { content } = body.messages.findLast(({ role }: { role: string }) => role === 'user')
  const said: string = typeof content === 'string' ? content : JSON.stringify(content)
  return (said.match(/[\s\S]{1,400}/g) ?? []).map((text) => ({ text }))
}

async function say(data: object): Promise<void> {
  const answer = await context.request.post(api(`/${session()}/messages?wait=20`), { data })
  // A reply that asks something has not ended.
  expect([answer.status(), await answer.text()]).toEqual([expect.toBeOneOf([200, 202]), expect.anything()])
}

/** Nothing was executed, asked for or refused, and what was written made no element that acts. */
async function expectHarmless(): Promise<void> {
  const found = await page.evaluate(() => {
    const acts = 'main script, main iframe, main object, main embed, main img, main style, main link, main form form'
    const named = [...document.querySelectorAll('#root *')].flatMap((element) => [
      ...[...element.attributes].flatMap(({ name }) => (/^on/i.test(name) ? [`${element.localName} ${name}`] : [])),
      // The list's own link leads to another page of the app.
      ...(element.localName === 'a' &&
      !element.matches('nav [href="#/usage/30"]') &&
      !/^(https?:\/\/|mailto:|\/v1\/sessions\/[\w-]+\/files\/[\w-]+$)/.test(element.getAttribute('href') ?? '')
        ? [`link to ${element.getAttribute('href')}`]
        : []),
    ])
    const ran = 'pwned' in window ? ['a script ran'] : []
    return [...[...document.querySelectorAll(acts)].map(({ outerHTML }) => outerHTML), ...named, ...ran]
  })
  expect({ found, escaped, complaints }).toEqual({ found: [], escaped: [], complaints: [] })
}

const groupsOf = (all: readonly string[], size: number) =>
  Array.from({ length: Math.ceil(all.length / size) }, (_, at) => all.slice(at * size, (at + 1) * size))

test('messages and replies of the whole corpus, live and as they are loaded again', async () => {
  expect(texts.length).toBeGreaterThan(250)
  // So few to a message that what one leaves open swallows little of the rest.
  for (const [at, group] of groupsOf(texts, 12).entries()) await say({ id: `m${at}`, text: group.join('\n\n') })
  await say({ id: 'last', text: 'the last one' })
  await page.locator('article.reply').getByText('the last one').waitFor()
  await expectHarmless()
  await page.reload()
  await page.locator('article.reply').getByText('the last one').waitFor()
  await expectHarmless()
})

test('titles in the heading, the list and the tab; names of files', async () => {
  const short = texts.filter((text) => text.length <= 200)
  for (const [at, title] of short.filter((_, at) => at % 6 === 0).entries()) {
    await context.request.post(api(''), { data: { id: `t${at}-${session()}`, title } })
  }
  for (const title of short.filter((_, at) => at % 12 === 5)) {
    expect((await context.request.patch(api(`/${session()}`), { data: { title } })).status()).toBe(200)
  }
  const title = '<img src=x onerror=pwned=1>'
  await context.request.patch(api(`/${session()}`), { data: { title } })
  await page.getByRole('heading', { name: title }).waitFor()
  await eventually(async () => (await page.title()).startsWith(title) || (await page.title()) === 'Holdfast')
  const files = short
    .filter((_, at) => at % 15 === 2)
    .map((filename) => ({
      ...{ type: 'file', mediaType: 'text/plain', url: `data:text/plain;base64,${btoa('hello')}` },
      filename,
    }))
  for (const [at, group] of groupsOf(files as never[], 4).entries()) {
    await say({ id: `f${at}`, parts: [{ type: 'text', text: `files ${at}` }, ...group] })
  }
  await page.locator('article.own').getByText('files 0').waitFor()
  await expectHarmless()
})

test('what tools are asked and answer, and what the server says of errors', async () => {
  const some = texts.filter((_, at) => at % 10 === 3)
  stage.provider.script(({ body }) =>
    body.messages.some(({ role }: { role: string }) => role === 'tool')
      ? [{ text: 'all told' }]
      : [{ tool: { id: 'k1', name: 'look', input: [JSON.stringify({ some })] } }],
  )
  await say({ id: 'asks', text: 'use a tool' })
  const call = page.getByRole('region', { name: 'Tool look' })
  await call.waitFor()
  const answer = await context.request.post(api(`/${session()}/tool-results/k1`), { data: { output: { some } } })
  expect(answer.status()).toBe(200)
  await page.locator('article.reply').getByText('all told').waitFor()
  await call.locator('summary').click()
  await call.locator('pre').last().waitFor()
  await expectHarmless()

  const detail = some.join(' ')
  await page.route('**/messages', (route) =>
    route.fulfill({ status: 403, json: { code: 'forbidden', detail, retryable: false, status: 403 } }),
  )
  await page.getByLabel('Message', { exact: true }).fill('refused')
  await page.keyboard.press('Enter')
  await page.locator('article.own').getByRole('alert').getByText('Not sent.').waitFor()
  await expectHarmless()
})
