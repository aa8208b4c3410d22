import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Payload, payloads } from './payloads.ts'
import { type Assets, buildWeb, serveFile, startBrowser } from './support.ts'

let assets: Assets
let browser: Browser
let front: Server
let canary: Server
let page: Page
/** What the canary heard, what left the page, and the dialogs that opened. */
const heard: string[] = []
const left: string[] = []
const dialogs: string[] = []

const addressOf = (server: Server) => `http://127.0.0.1:${(server.address() as AddressInfo).port}`

beforeAll(async () => {
  ;[assets, browser] = await Promise.all([buildWeb('renderer'), startBrowser()])
  front = createServer((incoming, outgoing) => void serveFile(assets.dir, incoming, outgoing)).listen(0, '127.0.0.1')
  canary = createServer((incoming, outgoing) => {
    heard.push(String(incoming.url))
    outgoing.end()
  }).listen(0, '127.0.0.1')
  await Promise.all([once(front, 'listening'), once(canary, 'listening')])
  page = await browser.newPage()
  page.on('request', (request) => {
    if (!request.url().startsWith(addressOf(front))) left.push(request.url())
  })
  page.on('dialog', (dialog) => {
    dialogs.push(dialog.message())
    void dialog.dismiss()
  })
  await page.goto(addressOf(front))
  await page.evaluate(findings)
})
afterAll(async () => {
  await browser.close()
  for (const server of [front, canary]) {
    server.closeAllConnections()
    server.close()
  }
  await assets.remove()
})
beforeEach(() => {
  for (const list of [heard, left, dialogs]) list.length = 0
})

declare global {
  interface Window {
    draw(id: string, text: string, isStreaming: boolean): Promise<void>
    pwned?: unknown
    findings(): string[]
  }
}

/** Puts into the page what looks at the drawn reply: every element and attribute that is not expected is a finding. */
function findings(): void {
  const allowed: Record<string, string[]> = {
    a: ['href', 'target', 'rel', 'referrerpolicy'],
    button: ['type', 'class', 'aria-label', 'title'],
    div: ['class', 'dir', 'style'],
    figure: ['class', 'aria-label'],
    ol: ['start', 'dir'],
    ...Object.fromEntries(['blockquote', 'h3', 'h4', 'h5', 'h6', 'ul'].map((name) => [name, ['dir']])),
    path: ['d'],
    pre: ['tabindex'],
    rect: ['x', 'y', 'width', 'height', 'rx'],
    section: ['class', 'tabindex', 'aria-label'],
    span: ['class', 'aria-live'],
    svg: ['viewBox', 'width', 'height', 'fill', 'stroke', 'stroke-width', 'stroke-linecap', 'stroke-linejoin'].concat([
      'aria-hidden',
      'class',
    ]),
    td: ['style'],
    th: ['style'],
  }
  const plain = 'b br code del em figcaption hr li p strong sub sup table tbody thead tr'
  for (const name of plain.split(' ')) allowed[name] = []
  const judge = ({ localName, attributes }: Element): string[] => {
    const names = allowed[localName]
    if (names === undefined) return [`<${localName}>`]
    return [...attributes].flatMap(({ name, value }) => {
      if (!names.includes(name)) return [`<${localName} ${name}="${value}">`]
      if (name === 'href' && !/^(https?:\/\/|mailto:)/.test(value)) return [`link to ${value}`]
      if (name === 'style' && !/^(text-align: (left|center|right)|display: contents);$/.test(value))
        return [`style ${value}`]
      return []
    })
  }
  window.findings = () => {
    const outside = document.querySelectorAll('head > :not(meta, title, script, link), body > :not(#root, script)')
    return [
      ...[...document.querySelectorAll('#root *')].flatMap(judge),
      ...[...outside].map((element) => `outside: ${element.outerHTML.slice(0, 200)}`),
      ...(window.pwned === undefined ? [] : ['a script ran']),
    ]
  }
}

/** Draws each text of a reply one after the other, as they would come; tells what was found, and how often it changed. */
const drawAll = (id: string, texts: string[], isStreaming: boolean) =>
  page.evaluate(
    async ([key, all, streaming]) => {
      const found: string[] = []
      let drawn = 0
      let before = ''
      for (const text of all) {
        await window.draw(key, text, streaming)
        const now = document.querySelector('.reply-text')?.innerHTML ?? ''
        if (now !== before) drawn++
        before = now
        for (const finding of window.findings()) found.push(`${finding} after ${JSON.stringify(text)}`)
      }
      return { found, drawn }
    },
    [id, texts, isStreaming] as const,
  )

/** A request that was made is heard before one that is made now, on the same kind of connection. */
async function settle(): Promise<void> {
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))))
}

function expectSilence(): void {
  expect({ heard, left, dialogs }).toEqual({ heard: [], left: [], dialogs: [] })
}

test('the canary hears what a page without these guards would send, and the finder finds it', async () => {
  const url = `${addressOf(canary)}/control.png`
  const asked = once(canary, 'request')
  const found = await page.evaluate((address) => {
    const image = document.createElement('img')
    image.src = address
    image.setAttribute('onerror', 'x')
    document.querySelector('#root')?.append(image)
    const before = window.findings()
    image.remove()
    return before
  }, url)
  await asked
  expect(heard).toEqual(['/control.png'])
  expect(left).toEqual([url])
  expect(found).toEqual(['<img>'])
})

test('no payload of the corpus as a whole makes a request, runs a script or leaves a bad link', async () => {
  const all = payloads(addressOf(canary))
  expect(all.length).toBeGreaterThanOrEqual(300)
  const found: string[] = []
  let drawn = 0
  for (const isStreaming of [false, true]) {
    for (const [at, { text }] of all.entries()) {
      const result = await drawAll(`whole-${at}-${isStreaming}`, [text], isStreaming)
      found.push(...result.found)
      if (result.drawn > 0) drawn++
    }
  }
  await settle()
  expect(found.slice(0, 10)).toEqual([])
  expectSilence()
  // A definition of a link alone draws nothing; nearly all do.
  expect(drawn).toBeGreaterThan(all.length * 2 * 0.9)
})

/** Every so many of each family, the others as a whole only. */
const sampleOf = (all: Payload[]) => all.filter(({ family }, at) => family === 'odd' || at % 4 === 0)

test('cut at every border, as it streams in, no payload does either', async () => {
  const sample = sampleOf(payloads(addressOf(canary)))
  expect(sample.length).toBeGreaterThanOrEqual(100)
  const found: string[] = []
  let borders = 0
  let drawn = 0
  for (const [at, { text }] of sample.entries()) {
    // A text is cut at its characters' borders; the long ones repeat themselves and are cut near their end.
    const characters = [...text]
    const first = Math.max(1, characters.length - 150)
    const prefixes = characters.slice(first - 1).map((_, index) => characters.slice(0, first + index).join(''))
    borders += prefixes.length
    const result = await drawAll(`cut-${at}`, prefixes, true)
    found.push(...result.found)
    drawn += result.drawn
  }
  await settle()
  expect(found.slice(0, 10)).toEqual([])
  expectSilence()
  expect(borders).toBeGreaterThan(3_000)
  // Where a cut lies within an address nothing new is to be seen.
  expect(drawn).toBeGreaterThan(borders / 3)
})

test('a remote image is loaded by a click on the button that names its host, without a referrer', async () => {
  const url = `${addressOf(canary)}/wanted.png`
  await drawAll('image', [`Look: ![a map](${url})`], false)
  await settle()
  expectSilence()
  const button = page.getByRole('button', { name: 'a map' })
  expect(await button.textContent()).toContain(new URL(url).host)
  const asked = once(canary, 'request')
  await button.click()
  const [request] = (await asked) as [{ headers: Record<string, string> }]
  expect(heard).toEqual(['/wanted.png'])
  expect(request.headers.referer).toBeUndefined()
})

test('good markdown is drawn: links, headings, lists, tables and code that can be copied', async () => {
  await drawAll(
    'good',
    [
      [
        '# One\n\nA [link](https://example.com/a?b=c) and a [mail](mailto:a@example.com), **bold**, `code`.',
        '3. three\n4. four',
        '| a | b |\n|:--|--:|\n| 1 | 2 |',
        '```ts\nconst a = "<b>"\n```',
        'and <b>HTML</b> as text',
      ].join('\n\n'),
    ],
    false,
  )
  expect(await page.evaluate(() => window.findings())).toEqual([])
  expect(
    await page.locator('.reply-text a').evaluateAll((all) => all.map((each) => each.getAttribute('href'))),
  ).toEqual(['https://example.com/a?b=c', 'mailto:a@example.com'])
  expect(await page.locator('.reply-text h3').textContent()).toBe('One')
  expect(await page.locator('.reply-text ol').getAttribute('start')).toBe('3')
  expect(await page.locator('.reply-text td').last().getAttribute('style')).toBe('text-align: right;')
  expect(await page.locator('.reply-text pre').textContent()).toBe('const a = "<b>"')
  await page.getByText('and <b>HTML</b> as text').waitFor()
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
  await page.getByRole('button', { name: 'Copy code' }).click()
  await page.getByText('Copied').waitFor()
  expect(await page.evaluate(() => navigator.clipboard.readText())).toBe('const a = "<b>"')
})
