/** Files on the page: chosen, dropped and pasted, on their way, sent, shown; and what replies bring along. */
import { deflateSync } from 'node:zlib'
import type { BrowserContext, Page, Route } from 'playwright-core'
import { expect, onTestFinished, test } from 'vitest'
import { limits } from '../../src/core/limits.ts'
import { createHoldfast, type Reply } from '../../src/index.ts'
import { gate } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { buttonOn, composerOn, expectShownIsStored, ownOn, repliedOn, sendOn, storedOf, untilStatusOn } from './page.ts'
import { faultsOf, gatesOf, openTab, picture, type Stage, sceneForEach } from './stage.ts'
import { serveFile } from './support.ts'

let stage: Stage
let context: BrowserContext
let page: Page
let complaints: string[]
const gates = gatesOf()

sceneForEach({ gates, answerTo: () => [{ text: 'I have seen it.' }] }, (scene) => {
  ;({ stage, context, page, complaints } = scene)
})

const newTab = () => openTab(context, stage.site.origin, complaints)
type Given = { name: string; mimeType: string; buffer: Buffer }

const chip = (name: string, tab = page) => tab.locator('.attachment').filter({ hasText: name })
const uploaded = (name: string, tab = page) =>
  tab.locator('.attachment[data-state="uploaded"]', { hasText: name }).waitFor()
const said = (words: string) => page.locator('form [role="status"]').getByText(words).waitFor({ state: 'attached' })
const uploads = () => stage.site.passed.filter((line) => /^POST \S+\/files/.test(line))

async function choose(...files: Given[]): Promise<void> {
  const chooser = page.waitForEvent('filechooser')
  await buttonOn(page, 'Attach files').click()
  await (await chooser).setFiles(files)
}

const text = (name: string, content = `what ${name} says`): Given => ({
  name,
  mimeType: 'text/plain',
  buffer: Buffer.from(content),
})
const png = (name: string, colour: readonly [number, number, number] = [20, 102, 90]): Given => ({
  name,
  mimeType: 'image/png',
  buffer: pngOf(240, 160, colour),
})

/** One colour, from corner to corner lighter. */
function pngOf(width: number, height: number, colour: readonly number[]): Buffer {
  const rows = Array.from({ length: height }, (_, y) => [
    0,
    ...Array.from({ length: width }, (_, x) => colour.map((part) => Math.min(255, part + ((x + y) >> 2)))).flat(),
  ])
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type), data])
    const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)]
    length.writeUInt32BE(data.length)
    check.writeUInt32BE(crcOf(body))
    return Buffer.concat([length, body, check])
  }
  const header = Buffer.alloc(13)
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  header.set([8, 2, 0, 0, 0], 8)
  const sign = Buffer.from('89504e470d0a1a0a', 'hex')
  const data = deflateSync(Buffer.from(rows.flat()))
  return Buffer.concat([sign, chunk('IHDR', header), chunk('IDAT', data), chunk('IEND', Buffer.alloc(0))])
}

/** Silence, of so many seconds. */
function wavOf(seconds: number): Buffer {
  const rate = 8_000
  const header = Buffer.alloc(44)
  header.write('RIFF', 0)
  header.writeUInt32LE(36 + rate * seconds, 4)
  header.write('WAVEfmt ', 8)
  header.writeUInt32LE(16, 16)
  header.writeUInt16LE(1, 20)
  header.writeUInt16LE(1, 22)
  header.writeUInt32LE(rate, 24)
  header.writeUInt32LE(rate, 28)
  header.writeUInt16LE(1, 32)
  header.writeUInt16LE(8, 34)
  header.write('data', 36)
  header.writeUInt32LE(rate * seconds, 40)
  return Buffer.concat([header, Buffer.alloc(rate * seconds, 128)])
}

function crcOf(bytes: Buffer): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return ~crc >>> 0
}

/** As a drag from a folder, or a paste, hands them over. */
async function give(how: 'drop' | 'paste', target: string, files: Given[], words: Record<string, string> = {}) {
  const given = files.map(({ name, mimeType, buffer }) => ({ name, mimeType, content: buffer.toString('base64') }))
  await page.locator(target).evaluate(
    (element, { how, given, words }) => {
      const data = new DataTransfer()
      for (const { name, mimeType, content } of given) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))
        data.items.add(new File([bytes], name, { type: mimeType }))
      }
      for (const [type, value] of Object.entries(words)) data.setData(type, value)
      const init = { bubbles: true, cancelable: true }
      if (how === 'drop') {
        element.dispatchEvent(new DragEvent('dragover', { ...init, dataTransfer: data }))
        element.dispatchEvent(new DragEvent('drop', { ...init, dataTransfer: data }))
      } else element.dispatchEvent(new ClipboardEvent('paste', { ...init, clipboardData: data }))
    },
    { how, given, words },
  )
}

/** What the model was told last by its user. */
const told = () => stage.provider.requests.at(-1)?.body.messages.at(-1).content
const dataUrl = ({ mimeType, buffer }: Given) => `data:${mimeType};base64,${buffer.toString('base64')}`

test('a file that is chosen in a new chat is uploaded into it and sent; the model is given it, and another tab shows it (P91, P96)', async () => {
  const image = png('sea.png')
  await composerOn(page).fill('what is this?')
  await choose(image)
  await uploaded('sea.png')
  await said('sea.png is uploaded.')
  expect(await chip('sea.png').locator('img').getAttribute('src')).toMatch(/^blob:/)
  expect(await composerOn(page).inputValue()).toBe('what is this?')
  await page.keyboard.press('Enter')
  await untilStatusOn(page, 'complete')
  await chip('sea.png').waitFor({ state: 'detached' })
  expect(told()).toEqual([
    { type: 'text', text: 'what is this?' },
    { type: 'image_url', image_url: { url: dataUrl(image) } },
  ])
  const { messages } = await storedOf(page)
  expect(messages[0]?.parts).toEqual([
    { type: 'text', text: 'what is this?' },
    { type: 'file', url: expect.stringMatching(/^\/v1\//), mediaType: 'image/png', filename: 'sea.png' },
  ])
  await page.getByRole('heading', { level: 1, name: 'what is this?' }).waitFor()
  await expectShownIsStored(page)
  const other = await newTab()
  const shown = ownOn(other, 'what is this?').getByRole('img', { name: 'sea.png' })
  await eventually(() => shown.evaluate((it: HTMLImageElement) => it.complete && it.naturalWidth === 240))
})

test('files are dropped on the conversation and pasted into the field; text with a picture of it beside it stays text', async () => {
  await give('drop', '.welcome', [text('dropped.txt'), png('dropped.png')])
  await uploaded('dropped.txt')
  await uploaded('dropped.png')
  await give('paste', 'textarea', [png('image.png', [122, 63, 119])], { 'text/html': '<img src="x">' })
  await uploaded('image.png')
  await give('paste', 'textarea', [png('table.png')], { 'text/plain': 'a b', 'text/html': '<b>a b</b>' })
  expect(await page.locator('.attachment').count()).toBe(3)
  // Beside the conversation the page stays, and takes nothing.
  await give('drop', 'nav', [text('beside.txt')])
  expect(await page.locator('.attachment').count()).toBe(3)
  expect(await faultsOf(page, 'chips')).toEqual([])
  await picture(page, 'chips')
  await buttonOn(page, 'Send').click()
  await untilStatusOn(page, 'complete')
  expect(told()[0]).toMatchObject({ type: 'text', text: expect.stringContaining('what dropped.txt says') })
  expect(told()).toHaveLength(3)
  await page.locator('.file-link').getByText('21 bytes').waitFor()
  // No one has written a title: the first file is it.
  await page.getByRole('heading', { level: 1, name: 'dropped.txt' }).waitFor()
  await page.locator('.own .files img').nth(1).waitFor()
  expect(await faultsOf(page, 'sent files')).toEqual([])
  await picture(page, 'sent')
})

test('files held over the conversation are told where they would go', async () => {
  await page.locator('.welcome').evaluate((it) => {
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File(['a'], 'a.txt'))
    it.dispatchEvent(new DragEvent('dragover', { bubbles: true, cancelable: true, dataTransfer }))
  })
  await page.getByText('Drop files to send them here').waitFor()
  await picture(page, 'over')
  await page.evaluate(() => window.dispatchEvent(new DragEvent('dragleave')))
  await page.getByText('Drop files to send them here').waitFor({ state: 'detached' })
})

test('the progress of an upload is seen, sending waits for it and says so, and what is removed is uploaded no further', async () => {
  await sendOn(page, 'hello')
  await untilStatusOn(page, 'complete')
  const devtools = await context.newCDPSession(page)
  const slow = (bytesPerSecond: number) =>
    devtools.send('Network.emulateNetworkConditions', {
      ...{ offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: bytesPerSecond },
    })
  // It would take minutes: it is still on its way when it is removed.
  await slow(50_000)
  await choose({ ...text('big.bin'), mimeType: 'application/octet-stream', buffer: Buffer.alloc(8_000_000, 7) })
  const progress = page.getByRole('progressbar', { name: 'Upload of big.bin' })
  await eventually(async () => Number(await progress.getAttribute('value')) > 0)
  expect(Number(await progress.getAttribute('value'))).toBeLessThan(1)
  await composerOn(page).fill('with a file')
  await page.keyboard.press('Enter')
  await said('It can be sent when the file is uploaded.')
  expect(await buttonOn(page, 'Send').getAttribute('aria-disabled')).toBe('true')
  expect(await composerOn(page).inputValue()).toBe('with a file')
  expect(await faultsOf(page, 'uploading')).toEqual([])
  await picture(page, 'uploading')
  const gone = page.waitForEvent('requestfailed')
  await buttonOn(page, 'Remove big.bin').focus()
  await page.keyboard.press('Enter')
  expect((await gone).url()).toContain('/files?filename=big.bin')
  await chip('big.bin').waitFor({ state: 'detached' })
  await eventually(() => composerOn(page).evaluate((it) => it === document.activeElement))
  await slow(-1)
  await page.keyboard.press('Enter')
  await ownOn(page, 'with a file').waitFor()
})

test('a file that is too large, or whose upload broke off, says why and what to do, and goes again when it is asked', async () => {
  await choose(
    { ...text('huge.bin'), buffer: Buffer.alloc(limits.fileBytesMax + 1) },
    { ...text('empty.txt'), buffer: Buffer.alloc(0) },
  )
  await chip('huge.bin').getByText('A file may have at most 8 MB.').waitFor()
  await chip('empty.txt').getByText('The file is empty.').waitFor()
  await said('2 files were not uploaded. Remove them to send the rest.')
  expect(await page.getByRole('button', { name: /^Upload/ }).count()).toBe(0)
  expect(await faultsOf(page, 'not uploaded')).toEqual([])
  await picture(page, 'failed')
  await buttonOn(page, 'Remove huge.bin').click()
  await eventually(() => buttonOn(page, 'Remove empty.txt').evaluate((it) => it === document.activeElement))
  await page.keyboard.press('Enter')
  const broken = (route: Route) => route.abort()
  await page.route('**/files?*', broken)
  await choose(text('again.txt'))
  // Once more by itself when the new chat is live: from then on only when it is asked.
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  await chip('again.txt').getByText('The server cannot be reached').waitFor()
  await said('One file was not uploaded. Try again, or remove it.')
  await page.unroute('**/files?*', broken)
  await buttonOn(page, 'Upload again.txt again').click()
  await uploaded('again.txt')
  expect(await page.locator('.obstacle').textContent()).toBe('')
})

test('an upload that is under way when the page is left is told by the next one, until it is removed', async () => {
  const broken = gate()
  onTestFinished(() => broken.open())
  await page.route('**/files?*', async (route) => {
    await broken.passed
    await route.abort()
  })
  await composerOn(page).fill('with this')
  await choose(text('half.txt'))
  await chip('half.txt').getByText(/%/).waitFor()
  // Another page knows that it is still under way.
  const other = await newTab()
  await eventually(async () => (await composerOn(other).inputValue()) === 'with this')
  expect(await chip('half.txt', other).count()).toBe(0)
  await other.close()
  await page.reload()
  const told = 'It was not uploaded before the page was left. Choose it again.'
  await chip('half.txt').getByText(told).waitFor()
  await said('One file was not uploaded. Remove it to send the rest.')
  await page.reload()
  await chip('half.txt').getByText(told).waitFor()
  await picture(page, 'lost')
  expect(await faultsOf(page, 'lost')).toEqual([])
  await buttonOn(page, 'Remove half.txt').click()
  await page.reload()
  await composerOn(page).waitFor()
  expect(await chip('half.txt').count()).toBe(0)
  expect(await composerOn(page).inputValue()).toBe('with this')
})

test('an upload that broke off with the network goes on by itself when the server is there again', async () => {
  await sendOn(page, 'hello')
  await untilStatusOn(page, 'complete')
  stage.site.setDown(true)
  await choose(text('later.txt'))
  await chip('later.txt').getByText('The server cannot be reached').waitFor()
  stage.site.setDown(false)
  await uploaded('later.txt')
})

test('what was uploaded is there after a reload and in a chat that one comes back to, with the draft, and is sent once', async () => {
  await composerOn(page).fill('half a sentence')
  await choose(png('kept.png'))
  await uploaded('kept.png')
  await page.reload()
  await uploaded('kept.png')
  expect(await composerOn(page).inputValue()).toBe('half a sentence')
  await eventually(() =>
    chip('kept.png')
      .locator('img')
      .evaluate((it: HTMLImageElement) => it.naturalWidth === 240),
  )
  const { hash } = new URL(page.url())
  await buttonOn(page, 'New chat').click()
  await chip('kept.png').waitFor({ state: 'detached' })
  expect(await composerOn(page).inputValue()).toBe('')
  await page.goto(`${stage.site.origin}/${hash}`)
  await uploaded('kept.png')
  await page.keyboard.press('Enter')
  await untilStatusOn(page, 'complete')
  await page.reload()
  await ownOn(page, 'half a sentence').waitFor()
  expect(await page.locator('.attachment').count()).toBe(0)
  expect(uploads()).toHaveLength(1)
})

test('an edit keeps the files of a message, and one that is withdrawn gives them back with its text (I16)', async () => {
  await composerOn(page).fill('look')
  await choose(png('one.png'))
  await uploaded('one.png')
  await page.keyboard.press('Enter')
  await untilStatusOn(page, 'complete')
  await ownOn(page, 'look').getByRole('button', { name: 'Edit message' }).click()
  await page.getByRole('img', { name: 'one.png' }).waitFor()
  await page.getByRole('textbox', { name: 'Edit message' }).fill('look again')
  await page.keyboard.press('Enter')
  await ownOn(page, 'look again').getByRole('img', { name: 'one.png' }).waitFor()
  await untilStatusOn(page, 'complete')
  await eventually(async () => (await storedOf(page)).messages[0]?.parts.map(({ type }) => type).join() === 'text,file')

  stage.provider.script([{ text: 'So ' }, { wait: gates.of('wait').passed }, { text: 'it is.' }])
  await sendOn(page, 'wait')
  await repliedOn(page, /So/).waitFor()
  await choose(text('two.txt'))
  await uploaded('two.txt')
  await buttonOn(page, 'Queue').click()
  const waiting = page.locator('article.own').last()
  await waiting.getByText('Queued').waitFor()
  await waiting.getByRole('button', { name: 'Withdraw' }).click()
  await uploaded('two.txt')
  expect(await composerOn(page).inputValue()).toBe('')
  gates.of('wait').open()
})

test('names and types of files are text and nothing else, and an SVG is a link that is saved (P94)', async () => {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" onload="parent.pwned=1"><script>top.pwned=1</script></svg>`
  const evil = `"><img src=x onerror=pwned=1>.svg`
  await give('drop', '.welcome', [
    { name: evil, mimeType: 'image/svg+xml', buffer: Buffer.from(svg) },
    { name: 'page.html', mimeType: 'text/html', buffer: Buffer.from('<script>opener.pwned=1</script>') },
    { name: 'cod\u202egnp.exe', mimeType: 'application/x-msdownload', buffer: Buffer.from('MZ') },
    { name: 'lie.png', mimeType: 'image/png"onerror="pwned=1', buffer: Buffer.from(svg) },
  ])
  await uploaded('onerror')
  await uploaded('page.html')
  await chip('lie.png').getByText('Expected the file itself').waitFor()
  await buttonOn(page, 'Remove lie.png').click()
  expect(await page.locator('.attachment img').count()).toBe(0)
  await buttonOn(page, 'Send').click()
  await untilStatusOn(page, 'complete')
  expect(await page.locator('.own img').count()).toBe(0)
  expect(await page.locator('.own .file-name').allTextContents()).toEqual([evil, 'page.html', 'codgnp.exe'])
  for (const link of await page.locator('.own a.file-link').all()) {
    expect(await link.getAttribute('rel')).toBe('noopener noreferrer')
    const answer = await context.request.get(`${stage.site.origin}${await link.getAttribute('href')}`)
    expect(answer.headers()['content-disposition']).toMatch(/^attachment/)
  }
  expect(await page.evaluate(() => 'pwned' in window)).toBe(false)
})

/** Another server, of an app that replies as the test says. */
async function openWith(reply: Reply): Promise<Page> {
  // Cookies know no ports: a page of the first one would take its guest away.
  await page.close()
  await context.clearCookies()
  const database = await freshDatabase(18)
  const chat = createHoldfast({ database: database.url, reply, log: () => undefined, drainMs: 0 })
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  const { url } = await chat.listen(0, '127.0.0.1', (incoming, outgoing) => {
    if (incoming.url?.startsWith('/v1/')) return false
    void serveFile(stage.assets.dir, incoming, outgoing)
    return true
  })
  return await openTab(context, url, complaints)
}

test('a reply shows its files, and its sources in a folded list whose links lead to the web and nowhere else', async () => {
  const image = png('made.png', [122, 63, 119])
  const source = (url: string, title?: string) => ({ type: 'source-url', sourceId: url, url, ...(title && { title }) })
  const tab = await openWith(async function* () {
    yield { type: 'text-start', id: 't' }
    yield { type: 'text-delta', id: 't', delta: 'Here it is.' }
    yield { type: 'text-end', id: 't' }
    yield { type: 'file', mediaType: 'image/png', url: dataUrl(image) }
    yield { type: 'file', mediaType: 'image/svg+xml', url: 'data:image/svg+xml;base64,PHN2Zy8+' }
    yield { type: 'file', mediaType: 'image/png', url: 'https://example.com/tracked.png' }
    yield { type: 'file', mediaType: 'image/png', url: 'javascript:pwned=1' }
    yield source('https://example.com/a', 'The sea')
    yield source('https://example.com/a', 'The sea')
    yield source('https://example.com/b')
    yield source('javascript:pwned=1', 'A trap')
    yield source('data:text/html,<script>pwned=1</script>', '<img src=x onerror=pwned=1>')
    yield {
      type: 'source-document',
      sourceId: 'd',
      mediaType: 'application/pdf',
      title: 'A book',
      filename: 'book.pdf',
    }
    yield { type: 'finish', finishReason: 'stop' }
  } as Reply)
  const asked: string[] = []
  tab.on('request', (request) => asked.push(request.url()))
  await sendOn(tab, 'draw it')
  await untilStatusOn(tab, 'complete')
  await tab.getByText('5 sources').click()
  await tab.locator('.reply .file-image img').waitFor()
  await eventually(() =>
    tab.locator('.reply .file-image img').evaluate((it: HTMLImageElement) => it.naturalWidth === 240),
  )
  const links = (selector: string) =>
    tab
      .locator(selector)
      .evaluateAll((all) => all.map((it) => [it.textContent, it.getAttribute('href'), it.getAttribute('rel')]))
  const rel = 'noopener noreferrer nofollow ugc'
  expect(await links('.sources a')).toEqual([
    ['The sea', 'https://example.com/a', rel],
    ['https://example.com/b', 'https://example.com/b', rel],
  ])
  expect(await tab.locator('.sources li').allTextContents()).toEqual([
    'The seaexample.com',
    'https://example.com/b',
    'A trap',
    '<img src=x onerror=pwned=1>',
    'A bookbook.pdf',
  ])
  expect(await links('.reply a.file-link')).toEqual([
    ['image/svg+xml', 'data:image/svg+xml;base64,PHN2Zy8+', null],
    ['tracked.pngexample.com', 'https://example.com/tracked.png', 'noopener noreferrer'],
  ])
  expect(await tab.locator('.reply img').count()).toBe(1)
  expect(asked.filter((url) => url.includes('example.com'))).toEqual([])
  expect(await faultsOf(tab, 'sources')).toEqual([])
  await picture(tab, 'sources')
  expect(await tab.evaluate(() => 'pwned' in window)).toBe(false)
})

test('sounds and films are played where they stand, from their middle, too; what is no sound is a link (P94)', async () => {
  const wav: Given = { name: 'sea.wav', mimeType: 'audio/wav', buffer: wavOf(4) }
  const midi: Given = { name: 'old.mid', mimeType: 'audio/midi', buffer: Buffer.from('MThd') }
  const film: Given = { name: 'film.webm', mimeType: 'video/webm', buffer: Buffer.from('no film at all') }
  for (const each of [wav, midi, film]) {
    await choose(each)
    await uploaded(each.name)
  }
  await composerOn(page).fill('listen')
  await page.keyboard.press('Enter')
  await untilStatusOn(page, 'complete')
  const own = ownOn(page, 'listen')
  const sound = own.locator('audio[aria-label="sea.wav"]')
  await eventually(() => sound.evaluate((it: HTMLAudioElement) => Math.round(it.duration) === 4))
  await sound.evaluate((it: HTMLAudioElement) => {
    it.currentTime = 3
  })
  await eventually(() => sound.evaluate((it: HTMLAudioElement) => !it.seeking && Math.round(it.currentTime) === 3))
  // What only calls itself a film is a link in the end.
  await own.locator('video').waitFor({ state: 'detached' })
  expect(await own.locator('a.file-link .file-name').allTextContents()).toEqual(['sea.wav', 'old.mid', 'film.webm'])
  expect(await faultsOf(page, 'players')).toEqual([])
  await picture(page, 'players')
})

test('where an image of a message has its place nothing moves when it comes', async () => {
  await choose(png('late.png'))
  await uploaded('late.png')
  await composerOn(page).fill('a late one')
  await page.keyboard.press('Enter')
  await untilStatusOn(page, 'complete')
  const held = gate()
  const other = await context.newPage()
  await other.route('**/files/*', async (route) => {
    await held.passed
    await route.continue()
  })
  await other.goto(page.url())
  const place = ownOn(other, 'a late one')
  await place.waitFor()
  const before = await place.boundingBox()
  held.open()
  await eventually(() => place.locator('img').evaluate((it: HTMLImageElement) => it.naturalWidth === 240))
  expect(await place.boundingBox()).toEqual(before)
})
