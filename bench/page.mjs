/**
 * The web app's main thread with a long conversation: opened, loaded back to its beginning, scrolled through, and while
 * a reply of 1,000 chunks/s is shown. A task of the main thread is what stands between two frames: its own time on the
 * processor is counted, because what else runs on the machine is no work of the page.
 */

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { chromium } from 'playwright-core'
import { startProvider } from '../test/support/provider.mjs'
import { figures, guest, ms, send, withMachine } from './support.mjs'

const frameMs = 16
const chunksPerSecond = 1_000
const replySeconds = 10
const chunksAtOnce = 5
const viewport = { width: 1280, height: 800 }
const browserArgs = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking']

/** `PAGE_MESSAGES=2000 npm run bench -- page`: a shorter one. */
const messages = Number(process.env.PAGE_MESSAGES ?? 10_000)
/** To look closer: `PAGE_PROFILES=…`, a directory for a CPU profile of each part. They cost the page time themselves. */
const profiles = process.env.PAGE_PROFILES

export async function page() {
  return withMachine(async (machine) => {
    const provider = await startProvider()
    provider.script(({ body }) => inPieces(body.messages.at(-1).content === 'code' ? codeText : replyTexts))
    const { url } = await machine.server({ OPENAI_API_KEY: 'none', OPENAI_BASE_URL: provider.url })
    const { cookie, session } = await guest(url)
    await fill(await machine.databaseUrl(), session)
    const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: browserArgs })
    try {
      const context = await browser.newContext({ viewport })
      const [name, value] = cookie.split('=')
      await context.addCookies([{ name, value, url }])
      const tab = await context.newPage()
      const cdp = await context.newCDPSession(tab)
      const watch = await watchOf(browser, cdp)
      const lines = []

      const opened = await watch('opened', async () => {
        await tab.goto(`${url}/#/${session}`)
        await tab.locator(`[data-reply="m${messages}"]`).waitFor()
      })
      lines.push(`page, opens a session of ${messages} messages: shown after ${ms(opened.tookMs)}; ${told(opened)}`)
      await tab.waitForTimeout(2_000)

      const loaded = await watch('loaded', () => loadAll(tab))
      lines.push(`page, loads all ${messages} by going up, ${ms(loaded.tookMs)}: ${told(loaded)}`)

      const scrolled = await watch('scrolled', () => wheel(tab, cdp))
      lines.push(`page, ${messages} messages, scrolled by ${wheels} wheel events: ${told(scrolled)}`)

      const jumped = await watch('jumped', () => jump(tab))
      lines.push(`page, ${messages} messages, ${jumps} jumps anywhere: ${told(jumped)}`)

      await tab.getByLabel('To the latest message').click()
      await tab.waitForTimeout(1_000)
      for (const [text, said] of [
        ['go', 'a reply'],
        ['code', 'a reply that is one block of code'],
      ]) {
        const replied = await watch(`replied-${text}`, async () => {
          // Asked of the server: what looks into the page for it would be work of the page.
          const path = `/v1/sessions/${session}/messages?wait=55`
          const { status, text: answer } = await send(url, 'POST', path, { id: `the-fast-${text}`, text }, cookie)
          if (status >= 300) throw new Error(`not sent: ${answer}`)
          await tab.waitForTimeout(1_000)
        })
        lines.push(
          `page, ${said} of ${chunksPerSecond} chunks/s after ${messages} messages, ${ms(replied.tookMs)}: ${told(replied)}`,
        )
        await tab.locator('article.reply').last().getByText('And that was all of it.').waitFor()
      }
      const elements = await tab.evaluate(() => document.querySelectorAll('*').length)
      lines.push(`page, elements at the end: ${elements}`)
      return lines
    } finally {
      await browser.close()
      await provider.stop()
    }
  })
}

const told = ({ work }) => {
  const { p50, p99, max, count } = figures(work)
  const over = work.filter((each) => each > frameMs)
  const sum = work.reduce((all, each) => all + each, 0)
  return `${count} tasks, p50 ${ms(p50)}, p99 ${ms(p99)}, max ${ms(max)}, ${over.length} over ${frameMs} ms; all ${ms(sum)}`
}

const storedAtOnce = 100

/**
 * By the function with which the assistant says something; every other one is made a person's. Some in each transaction:
 * within one, each change of the session's row leaves a version that the next one walks over.
 */
async function fill(databaseUrl, session) {
  const client = new pg.Client(databaseUrl)
  await client.connect()
  const texts = [replyText, 'Question #: how does it hold, and what when the network is gone?']
  try {
    await client.query('set synchronous_commit to off')
    for (let first = 1; first <= messages; first += storedAtOnce) {
      const last = Math.min(messages, first + storedAtOnce - 1)
      await client.query(
        `select count(holdfast.say(s.tenant_id, s.id, 'm' || n,
            jsonb_build_array(jsonb_build_object('type', 'text', 'text', replace(($2::text[])[n % 2 + 1], '#', n::text))),
            null, md5(n::text), null, 'main'))
           from holdfast.sessions s, generate_series($3::int, $4::int) n where s.id = $1`,
        [session, texts, first, last],
      )
      // A plan for the few that there were would look at each of all that there are.
      if (first % 1_000 === 1) await client.query('analyze holdfast.messages, holdfast.events, holdfast.sessions')
    }
    await client.query(
      `update holdfast.messages set role = 'user', author = (select user_id from holdfast.members where session_id = $1)
        where session_id = $1 and substr(id, 2)::int % 2 = 1`,
      [session],
    )
    await client.query(
      `update holdfast.messages set replies_to = 'm' || (substr(id, 2)::int - 1) where session_id = $1 and role = 'assistant'`,
      [session],
    )
    await client.query('analyze holdfast.messages')
  } finally {
    await client.end()
  }
}

const code = ['```ts', 'const held = await store.append(chunk, { attempt, index })', 'if (!held) return "stale"', '```']
const replyText = [
  '## Reply # in short',
  'It is **stored before it is shown**, and a [link](https://example.org) says `more`. What was lost is asked for again.',
  ['- The message is kept', '- The turn is *claimed*', '- Each chunk has an `index`'].join('\n'),
  code.join('\n'),
  '| State | Means |\n|---|---|\n| queued | waits |\n| running | is written |',
  'A last paragraph, long enough that it is broken into lines, tells what becomes of it when the process dies: another one takes it over, from what was stored.',
].join('\n\n')

const replyTexts = (n) => `${replyText.replace('#', `part ${n}`)}\n\n`
const codeText = (n) => `${n === 1 ? '```ts\n' : ''}${code[1]} // of ${n}\n\n`

/** What a function says again and again, in pieces of a word. */
function inPieces(textOf) {
  const pieces = []
  for (let n = 1; pieces.length < chunksPerSecond * replySeconds; n++) pieces.push(...textOf(n).match(/\S+\s*/g))
  const steps = []
  for (let at = 0; at < pieces.length; at += chunksAtOnce) {
    steps.push(...pieces.slice(at, at + chunksAtOnce).map((text) => ({ text })))
    steps.push({ pauseMs: (chunksAtOnce * 1_000) / chunksPerSecond })
  }
  return [...steps, { text: '\nAnd that was all of it.' }]
}

const earlierMs = 20_000

async function loadAll(tab) {
  for (;;) {
    const { count, isStalled, hasEarlier } = await tab.evaluate(async (ms) => {
      const button = document.querySelector('.messages .column > div > .small-button')
      document.querySelector('.messages').scrollTo({ top: 0 })
      const until = performance.now() + ms
      while (button?.isConnected && performance.now() < until) await new Promise(requestAnimationFrame)
      return {
        count: document.querySelectorAll('main article').length,
        isStalled: button?.isConnected ?? false,
        hasEarlier: document.querySelector('.messages .column > div > .small-button') !== null,
      }
    }, earlierMs)
    if (isStalled) throw new Error(`${count} messages are there, and nothing more came in ${earlierMs} ms at the top`)
    if (!hasEarlier) return
  }
}

const wheels = 200

/** As a hand on a wheel does it: up, then down. */
async function wheel(tab, cdp) {
  const at = { x: viewport.width / 2, y: viewport.height / 2 }
  await tab.mouse.move(at.x, at.y)
  for (let n = 0; n < wheels; n++) {
    const deltaY = n < wheels / 2 ? 240 : -240
    await cdp.send('Input.dispatchMouseEvent', { type: 'mouseWheel', ...at, deltaX: 0, deltaY })
    await tab.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))))
  }
}

const jumps = 20

/** As who drags the bar. */
async function jump(tab) {
  for (let n = 0; n < jumps; n++) {
    await tab.locator('.messages').evaluate(
      async (it, part) => {
        it.scrollTo({ top: it.scrollHeight * part })
        for (let frame = 0; frame < 12; frame++) await new Promise((resolve) => requestAnimationFrame(resolve))
      },
      ((n * 61) % 100) / 100,
    )
  }
}

/** What the tasks of the page's main thread took of the processor, in ms. */
async function watchOf(browser, tab) {
  const cdp = await browser.newBrowserCDPSession()
  if (profiles) await tab.send('Profiler.enable')
  return async (name, work) => {
    const events = []
    const collect = ({ value }) => events.push(...value.filter(isWanted))
    cdp.on('Tracing.dataCollected', collect)
    const includedCategories = ['toplevel', 'devtools.timeline', 'disabled-by-default-devtools.timeline', '__metadata']
    await cdp.send('Tracing.start', {
      transferMode: 'ReportEvents',
      traceConfig: { recordMode: 'recordContinuously', includedCategories, excludedCategories: ['*'] },
    })
    if (profiles) await tab.send('Profiler.start')
    const began = performance.now()
    await work()
    const tookMs = performance.now() - began
    const done = new Promise((resolve) => cdp.once('Tracing.tracingComplete', resolve))
    await cdp.send('Tracing.end')
    await done
    cdp.off('Tracing.dataCollected', collect)
    if (profiles) {
      const { profile } = await tab.send('Profiler.stop')
      await writeFile(join(profiles, `${name}.cpuprofile`), JSON.stringify(profile))
    }
    return { tookMs, ...tasksOf(events) }
  }
}

const isWanted = ({ name }) => name === 'RunTask' || name === 'thread_name'

function tasksOf(events) {
  const threads = new Set(
    events.filter(({ args }) => args.name === 'CrRendererMain').map(({ pid, tid }) => `${pid} ${tid}`),
  )
  const byThread = new Map()
  for (const { name, pid, tid, tdur } of events) {
    const key = `${pid} ${tid}`
    if (!threads.has(key)) continue
    const thread = byThread.get(key) ?? { work: [], sum: 0 }
    byThread.set(key, thread)
    // One that does nothing to speak of stands for no frame.
    if (name === 'RunTask' && tdur > 1_000) {
      thread.work.push(tdur / 1_000)
      thread.sum += tdur
    }
  }
  const busiest = [...byThread.values()].sort((a, b) => b.sum - a.sum)[0]
  return { work: busiest?.work ?? [] }
}
