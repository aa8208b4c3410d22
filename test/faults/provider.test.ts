/** FL1–FL8 end to end: what a failing provider becomes for the people who wait, and for the messages behind. */
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { failureOf, type TurnCode } from '../../src/core/errors.ts'
import { textOf } from '../../src/core/parts.ts'
import { createHoldfast } from '../../src/index.ts'
import { type WriterName, writerNames, writers } from '../reply/writers.ts'
import { apiOf, type Frame, type Watcher } from '../support/client.ts'
import { freshDatabase } from '../support/postgres.ts'
import { type ProviderRequest, startProvider } from '../support/provider.mjs'
import { jwtSecret } from '../support/server.ts'
import { ofType, openScene, type Step, textIn } from './scene.ts'

type Case = {
  fault: string
  /** What the provider does at the first attempt, the second, …; then it answers well. */
  attempts: Step[][]
  /** Codes of the attempts that ended without an outcome. */
  ended: string[]
  outcome: { text: string } | { code: string; canRetry: boolean; retryAfterMs?: number }
  /** Tokens that the session is counted for. */
  tokens?: number
}

const begun: Step = { text: 'Half of ' }
const well: Step[] = [{ text: 'A good ' }, { text: 'reply.' }]
const good = { text: 'A good reply.' }
const tooBusy = { error: { message: 'slow down', type: 'rate_limit_error' } }

const cases: Case[] = [
  {
    fault: 'FL1 429 with Retry-After',
    attempts: [[{ status: 429, headers: { 'retry-after': '2' }, body: tooBusy }]],
    ended: ['provider_rate_limited'],
    outcome: good,
  },
  {
    fault: 'FL1 429 with a Retry-After of more than a minute',
    attempts: [[{ status: 429, headers: { 'retry-after': '61' }, body: tooBusy }]],
    ended: [],
    outcome: { code: 'provider_rate_limited', canRetry: true, retryAfterMs: 61_000 },
  },
  { fault: 'FL2 5xx', attempts: [[{ status: 503 }]], ended: ['provider_overloaded'], outcome: good },
  {
    fault: 'FL2 5xx until the attempts are used up',
    attempts: [[{ status: 500 }], [{ status: 502 }], [{ status: 503 }]],
    ended: ['provider_overloaded', 'provider_overloaded'],
    outcome: { code: 'provider_overloaded', canRetry: true },
  },
  { fault: 'FL4 hangs mid-stream', attempts: [[begun, { hang: true }]], ended: ['no_progress'], outcome: good },
  {
    fault: 'FL5 a clean end without finish',
    attempts: [[begun, { end: true }]],
    ended: ['provider_truncated'],
    outcome: good,
  },
  { fault: 'FL6 reset', attempts: [[begun, { destroy: true }]], ended: ['provider_truncated'], outcome: good },
  {
    fault: 'FL7 a malformed chunk',
    attempts: [[begun, { raw: 'data: {"choices": [{\n\n' }]],
    ended: ['provider_truncated'],
    outcome: good,
  },
  {
    fault: 'FL7 an event cut inside a character',
    attempts: [[{ text: 'caf' }, { cut: 'é \u{1F600}' }, { text: '!' }]],
    ended: [],
    outcome: { text: 'café \u{1F600}!' },
  },
  {
    fault: 'FL8 an error after 200',
    attempts: [[begun, { error: { message: 'overloaded', type: 'server_error' } }, { end: true }]],
    ended: ['provider_overloaded'],
    outcome: good,
  },
  { fault: 'FL8 usage missing', attempts: [[...well, { usage: null }]], ended: [], outcome: good, tokens: 0 },
  {
    fault: 'FL8 usage twice',
    attempts: [
      [...well, { usage: { inputTokens: 3, outputTokens: 1 } }, { usage: { inputTokens: 30, outputTokens: 12 } }],
    ],
    ended: [],
    outcome: good,
    tokens: 42,
  },
  {
    fault: 'FL8 never ends',
    attempts: [[{ forever: 'x'.repeat(30_000), everyMs: 1 }]],
    ended: [],
    outcome: { code: 'budget_exceeded', canRetry: true },
  },
]

/** The user's text, in whatever words it was asked with. To Anthropic, messages without a reply between are one. */
function saidIn({ body }: ProviderRequest): string {
  const { content } = (body.messages ?? body.input).at(-1)
  return typeof content === 'string' ? content : content.at(-1).text
}

/** What the followers were told of the attempts of one turn that ended and were tried again; none began too early. */
function triedAgain(watcher: Watcher, turnId: string): { reason: string; code: string }[] {
  const ended = ofType(watcher, 'attempt.ended').filter((frame) => frame.turnId === turnId)
  for (const { data, at } of ended) {
    const next = ofType(watcher, 'attempt.started').find(
      (frame) => frame.turnId === turnId && frame.data.attempt === data.attempt + 1,
    )
    expect(Date.parse(data.retryAt)).toBeGreaterThanOrEqual(Date.parse(at))
    expect(Date.parse(next!.at)).toBeGreaterThanOrEqual(Date.parse(data.retryAt))
  }
  return ended.map(({ data: { reason, code } }) => ({ reason, code }))
}

test('each failure of a provider is classified, retried or failed as told, and the lane goes on in order (I2)', async () => {
  const scene = await openScene()
  const { ann, provider } = scene
  const asked: { said: string; atMs: number; request: ProviderRequest }[] = []
  provider.script((request) => {
    const said = saidIn(request)
    const before = asked.filter((each) => each.said === said).length
    asked.push({ said, atMs: performance.now(), request })
    return cases.find(({ fault }) => fault === said)?.attempts[before] ?? well
  })
  await scene.start({ env: { HOLDFAST_NO_PROGRESS_MS: '1500' } })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  // All at once: each waits for its turn behind those that fail, back off and try again.
  for (const [at, { fault }] of cases.entries()) await ann.send(session, fault, `m${at}`)
  const outcomes: Frame[] = []
  for (const at of cases.keys()) outcomes.push(await watcher.outcome(`m${at}`))
  await watcher.close()
  expect(watcher.problems).toEqual([])

  for (const [at, { fault, outcome }] of cases.entries()) {
    const got = outcomes[at]!
    if ('text' in outcome) {
      expect([fault, got.type, textIn(got)]).toEqual([fault, 'message.ai_response', outcome.text])
      continue
    }
    expect(got, fault).toMatchObject({ type: 'message.error', data: { userMessageId: `m${at}`, ...outcome } })
    expect(got.data.error).not.toBe('')
  }
  const seqs = outcomes.map(({ seq }) => seq)
  expect(seqs).toEqual([...seqs].sort((a, b) => a - b))

  for (const [at, { fault, ended, attempts }] of cases.entries()) {
    const again = triedAgain(watcher, outcomes[at]!.turnId!)
    expect([fault, ...again]).toEqual([fault, ...ended.map((code) => ({ reason: 'error', code }))])
    const requests = asked.filter(({ said }) => said === fault)
    expect([fault, requests.length]).toEqual([fault, 'text' in cases[at]!.outcome ? ended.length + 1 : attempts.length])
  }
  const [first, second] = asked.filter(({ said }) => said === cases[0]!.fault)
  expect(second!.atMs - first!.atMs).toBeGreaterThanOrEqual(1_990)
  const hung = asked.filter(({ said }) => /hangs|never ends/.test(said) && cases.some(({ fault }) => fault === said))
  expect(await hung[0]!.request.closed).toBe('aborted')
  expect(await hung.at(-1)!.request.closed).toBe('aborted')
})

const limited = (retryAfterMs: number): Step[] => [
  { status: 429, headers: { 'retry-after-ms': String(retryAfterMs) }, body: { error: {} } },
]
const refused: Step[] = [{ status: 401, body: { error: {} } }]
/** What the user says, what the provider does at each attempt, and what comes of it. */
const perReader: { said: string; attempts: Step[][]; again: TurnCode[]; failure?: ReturnType<typeof failureOf> }[] = [
  { said: 'once', attempts: [limited(700)], again: ['provider_rate_limited'] },
  {
    said: 'always',
    attempts: [limited(50), limited(60), limited(70)],
    again: ['provider_rate_limited', 'provider_rate_limited'],
    failure: failureOf('provider_rate_limited', 70),
  },
  { said: 'refused', attempts: [refused], again: [], failure: failureOf('provider_auth') },
]

const wordsIn = (text: string) => {
  const [name, said] = text.split(': ')
  return { name: name as WriterName, said }
}

test('with every reader a passing fault is tried again when the provider said, and a lasting one is told at once (FL1, I2)', async () => {
  const database = await freshDatabase(18)
  const provider = await startProvider()
  const chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    log: () => undefined,
    reply(context) {
      const { name } = wordsIn(textOf(context.message.parts))
      return writers[name](provider.url)(context)
    },
  })
  onTestFinished(async () => {
    await chat.close()
    await provider.stop()
    await database.drop()
  })
  const asked: { text: string; atMs: number }[] = []
  const askedFor = (text: string) => asked.filter((each) => each.text === text)
  provider.script((request) => {
    const text = saidIn(request)
    const before = askedFor(text).length
    asked.push({ text, atMs: performance.now() })
    return perReader.find(({ said }) => said === wordsIn(text).said)!.attempts[before] ?? well
  })
  const { url } = await chat.listen(0)
  const ann = await apiOf(() => url)

  await Promise.all(
    writerNames.map(async (name) => {
      const session = await ann.createSession()
      const watcher = ann.watch(session)
      for (const { said } of perReader) await ann.send(session, `${name}: ${said}`, said)
      for (const { said, again, failure } of perReader) {
        const outcome = await watcher.outcome(said)
        expect([name, said, ...triedAgain(watcher, outcome.turnId!)]).toEqual([
          name,
          said,
          ...again.map((code) => ({ reason: 'error', code })),
        ])
        const message = expect.objectContaining({ role: 'assistant', repliesTo: said })
        expect([name, outcome]).toMatchObject([
          name,
          failure === undefined
            ? { type: 'message.ai_response', data: { message } }
            : { type: 'message.error', data: { userMessageId: said, ...failure, message } },
        ])
        expect(textIn(outcome)).toBe(failure === undefined ? good.text : '')
      }
      // Longer than a first backoff may be: it is the provider's word.
      const [first, second] = askedFor(`${name}: once`)
      expect(second!.atMs - first!.atMs).toBeGreaterThanOrEqual(690)
      await watcher.close()
      expect(watcher.problems).toEqual([])
    }),
  )
})

test('usage is counted once, as the provider reported it last (FL8, I12)', async () => {
  const scene = await openScene()
  const { ann, provider } = scene
  provider.script((request) => cases.find(({ fault }) => fault === saidIn(request))!.attempts[0]!)
  await scene.start()
  for (const { fault, tokens } of cases) {
    if (tokens === undefined) continue
    const session = await ann.createSession()
    const watcher = ann.watch(session)
    await ann.send(session, fault, 'm1')
    await watcher.outcome('m1')
    await watcher.close()
    expect([fault, (await ann.snapshot(session)).session.totalTokens]).toEqual([fault, tokens])
  }
})

test('a provider that never answers is given up for lack of progress, and the next message has its turn (FL3)', async () => {
  let connections = 0
  const deaf = createServer((socket) => {
    connections++
    socket.on('error', () => undefined)
  }).listen(0, '127.0.0.1')
  onTestFinished(() => void deaf.close())
  const scene = await openScene()
  const { port } = deaf.address() as AddressInfo
  await scene.start({
    provider: `http://127.0.0.1:${port}/v1`,
    env: { HOLDFAST_NO_PROGRESS_MS: '1000', HOLDFAST_ATTEMPTS_MAX: '2', HOLDFAST_ON_BUDGET: 'fail' },
  })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  await scene.ann.send(session, 'one', 'm1')
  await scene.ann.send(session, 'two', 'm2')
  for (const id of ['m1', 'm2']) {
    expect(await watcher.outcome(id)).toMatchObject({
      type: 'message.error',
      data: { code: 'no_progress', canRetry: true },
    })
  }
  expect(ofType(watcher, 'attempt.ended').map(({ data }) => data.code)).toEqual(['no_progress', 'no_progress'])
  expect(connections).toBe(4)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})
