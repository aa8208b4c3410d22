/** Titles that the app gives (R4.5): once, after the first complete reply, and never over one that a person gave. */
import { describe, expect, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { textOf } from '../../src/core/parts.ts'
import { type HoldfastOptions, ReplyError } from '../../src/index.ts'
import { createSession, giveTitleIfNone, renameSession } from '../../src/store/sessions.ts'
import { gate } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import type { Frame } from '../support/client.ts'
import { postgresVersions } from '../support/postgres.ts'
import { disorder, openStored, tenantId, userId } from '../support/stored.ts'

async function open(options: Partial<HoldfastOptions>) {
  const lines: { line: string; detail: object }[] = []
  const hearers = new Set<() => void>()
  const opened = await openChat({
    log: (line, detail = {}) => {
      lines.push({ line, detail })
      for (const hear of hearers) hear()
    },
    reply: ({ message: { id } }) => `a secret answer to ${id}`,
    ...options,
  })
  const { ann, session, watcher } = opened
  /** Resolves with why a session has no title, when the log says so. */
  const why = () =>
    new Promise<object>((resolve) => {
      const look = () => {
        const found = lines.find(({ line }) => line.startsWith('title:'))
        if (found) resolve(found.detail)
      }
      hearers.add(look)
      look()
    })
  const rename = (title: string | null) =>
    ann.request(`/v1/sessions/${session}`, { method: 'PATCH', body: JSON.stringify({ title }) })
  /** Sends and waits for the outcome. */
  const turn = async (id: string) => {
    await ann.send(session, `secret ${id}`, id)
    return await watcher.outcome(id)
  }
  const titleNow = async () => (await ann.snapshot(session)).session.title
  return { ...opened, lines, why, rename, turn, titleNow }
}

const updates = ({ frames }: { frames: Frame[] }) =>
  frames.filter(({ type }) => type === 'session.updated').map(({ data }) => data.session.title)
const isUpdate = ({ type }: Frame) => type === 'session.updated'

test('a session without a title gets one after its first complete reply, by one event that comes after the reply, and is not asked about again (R4.5, P22)', async () => {
  const asked: unknown[] = []
  const { session, watcher, turn, titleNow } = await open({
    title: ({ signal, ...context }) => {
      const messages = context.messages.map(({ role, parts }) => `${role}: ${textOf(parts as Part[])}`)
      asked.push({ ...context, messages, aborted: signal.aborted })
      return '  About\n the\tsea \0 '
    },
  })
  await turn('m1')
  await watcher.until(isUpdate)
  expect(await titleNow()).toBe('About the sea \uFFFD')
  await turn('m2')
  await turn('m3')
  expect(updates(watcher)).toEqual(['About the sea \uFFFD'])
  const types = watcher.frames.filter(({ seq }) => seq !== undefined).map(({ type }) => type)
  expect(types.slice(0, 4)).toEqual(['message.created', 'attempt.started', 'message.ai_response', 'session.updated'])
  expect(asked).toEqual([
    {
      messages: ['user: secret m1', 'assistant: a secret answer to m1'],
      session: { id: session, title: null, metadata: {} },
      user: { id: 'ann', tenantId: 'default' },
      aborted: false,
    },
  ])
  expect(watcher.problems).toEqual([])
})

test('a failed and a stopped reply are none: the title comes with the first that is complete', async () => {
  const asked: string[] = []
  const { ann, session, watcher, turn } = await open({
    reply: ({ message: { id } }) => {
      if (id === 'fails') throw new ReplyError('content_filtered', 'no')
      return id === 'hangs' ? new Promise(() => undefined) : 'the answer'
    },
    title: ({ messages }) => {
      asked.push(messages.at(-2)!.id)
      return 'T'
    },
  })
  await turn('fails')
  const { turn: hangs } = await ann.send(session, 'hi', 'hangs')
  await watcher.until(({ type, data }) => type === 'attempt.started' && data.turnId === hangs.id)
  await ann.command(session, 'hangs', 'stop')
  await turn('works')
  await watcher.until(isUpdate)
  expect(asked).toEqual(['works'])
})

test('an app that answers no title is not asked again', async () => {
  let asked = 0
  const { chat, watcher, turn, titleNow, lines } = await open({
    drainMs: 5_000,
    title: () => {
      asked++
      return null
    },
  })
  for (const id of ['m1', 'm2', 'm3']) await turn(id)
  expect(await titleNow()).toBe(null)
  await watcher.close()
  // Ends when nothing of a title is left to come.
  await chat.close()
  expect({ asked, updates: updates(watcher) }).toEqual({ asked: 1, updates: [] })
  expect(lines.filter(({ line }) => line.startsWith('title'))).toEqual([])
})

test('a title that a person gives while the app makes one is kept, and one that is there is not asked about (R4.5)', async () => {
  const { passed, open: answer } = gate()
  const begun = gate()
  const { watcher, rename, turn, titleNow, chat } = await open({
    drainMs: 5_000,
    title: async () => {
      begun.open()
      await passed
      return 'of the app'
    },
  })
  await turn('m1')
  await begun.passed
  expect((await rename('of a person')).status).toBe(200)
  answer()
  await turn('m2')
  expect(await titleNow()).toBe('of a person')
  await watcher.close()
  // Ends when the title was refused: nothing of it is left to come.
  await chat.close()
  expect(updates(watcher)).toEqual(['of a person'])
})

test('the next turn is written while the app still makes the title, with room for one attempt (R4.5)', async () => {
  const { passed, open: answer } = gate()
  const { watcher, turn } = await open({ concurrency: 1, title: () => passed.then(() => 'late') })
  await turn('m1')
  await turn('m2')
  expect(updates(watcher)).toEqual([])
  answer()
  await watcher.until(isUpdate)
  expect(updates(watcher)).toEqual(['late'])
})

// biome-ignore lint/suspicious/noExplicitAny: what an app in JavaScript may answer
const bad: [string, () => any, RegExp][] = [
  [
    'throws',
    () => {
      throw new TypeError('secret')
    },
    /threw TypeError/,
  ],
  ['rejects', () => Promise.reject(new RangeError('secret')), /threw RangeError/],
  ['answers a number', () => 42, /no text/],
  ['does not answer', () => new Promise(() => undefined), /within 100 ms/],
]
test.each(bad)('a title that %s costs the title and one line without content', async (_, title, why) => {
  const { turn, titleNow, lines, ...scene } = await open({ title, titleMs: 100 })
  expect((await turn('m1')).type).toBe('message.ai_response')
  expect(await scene.why()).toEqual({ sessionId: scene.session, why: expect.stringMatching(why) })
  expect(await titleNow()).toBe(null)
  expect(JSON.stringify(lines)).not.toContain('secret')
})

test('a long title is cut to 200 characters, not within one', async () => {
  const { watcher, turn, titleNow } = await open({ title: () => `${'x'.repeat(199)}😀 and more` })
  await turn('m1')
  await watcher.until(isUpdate)
  expect(await titleNow()).toBe('x'.repeat(199))
})

test('a process that is told to end does not wait for a title', async () => {
  const begun = gate()
  const { chat, turn, lines } = await open({
    drainMs: 100,
    titleMs: 60_000,
    title: () => {
      begun.open()
      return new Promise(() => undefined)
    },
  })
  await turn('m1')
  await begun.passed
  await chat.close()
  expect(lines.filter(({ line }) => line.startsWith('title')).map(({ detail }) => detail)).toMatchObject([
    { why: 'the process is told to end' },
  ])
})

describe.each(postgresVersions)('on Postgres %i', (version) => {
  test('of two titles of the app one is stored, and a person’s is never lost to either, however they race (R4.5, I4)', async () => {
    const stored = await openStored(version)
    const databases = [stored.open(), stored.open(), stored.open()]
    const given = { app: 0, person: 0 }
    for (let round = 0; round < 60; round++) {
      const id = `s${round}`
      await createSession(databases[0]!, { id, tenantId, userId, title: null, metadata: {} })
      const give = (at: number) => giveTitleIfNone(databases[at]!, { tenantId, sessionId: id, title: `app ${at}` })
      const rename = () => renameSession(databases[2]!, { tenantId, id, userId, title: 'person' })
      const answers = await Promise.all([give(0), give(1), ...(round % 3 === 0 ? [] : [rename()])])
      const [row] = await stored.query<{ title: string }>('select title from holdfast.sessions where id = $1', [id])
      const winners = answers.slice(0, 2).filter((event) => event !== null)
      expect(winners.length).toBeLessThanOrEqual(1)
      if (round % 3 === 0) expect(winners).toHaveLength(1)
      else expect(row!.title).toBe('person')
      given[row!.title === 'person' ? 'person' : 'app']++
      expect(await give(0)).toBe(null)
    }
    expect(given).toEqual({ app: 20, person: 40 })
    expect(await disorder(stored)).toEqual([])
    await stored.close()
  })
})
