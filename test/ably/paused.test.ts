/** A process that publishes is stopped (SIGSTOP) past its lease, and goes on when another one has long published what came. */
import { expect, inject, onTestFinished, test } from 'vitest'
import { ably } from '../../src/ably/ably.ts'
import { createHoldfast } from '../../src/index.ts'
import { testServer } from '../../src/testing/index.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { startServer } from '../support/server.ts'
import { key, type Published, startStub } from './stub.ts'

type Line = { position: number; attempt: number; index: number; n: number; chunks: { delta?: string }[] }
const isChunks = ({ name }: Published) => name === 'holdfast.chunks'
const seqOf = ({ extras }: Published) => Number((extras as { headers: { seq: string } }).headers.seq)

/** As the first process writes it, without an end, and the second one. */
const textOf = (attempt: number) =>
  attempt === 1 ? Array.from({ length: 5_000 }, (_, at) => `first ${at} `).join('') : 'second'

/** Each line goes on where another ends, from the first chunk on, and says what was written there, however often it comes. */
function expectWhole(published: readonly Published[]): void {
  const lines = published.filter(isChunks).flatMap(({ data }) => data.trimEnd().split('\n'))
  const sorted = lines.map((line) => JSON.parse(line) as Line).sort((a, b) => a.index - b.index)
  /** By attempt and index: where its text begins. */
  const begins = new Map<string, number>()
  for (const { attempt, index, n, chunks } of sorted) {
    const from = index === 0 ? 0 : begins.get(`${attempt} ${index}`)
    const text = chunks.map(({ delta = '' }) => delta).join('')
    const end = (from ?? Number.NaN) + text.length
    const known = begins.get(`${attempt} ${index + n}`) ?? end
    expect({ attempt, index, text, end }).toEqual({
      attempt,
      index,
      text: textOf(attempt).slice(from, end),
      end: known,
    })
    begins.set(`${attempt} ${index + n}`, end)
  }
}

test.each(['an append', 'an event'] as const)(
  'a publisher that stood still past its lease, %s of its on its way, changes nothing when it goes on: no position twice with another content, none missing (I4, I5)',
  async (onItsWay) => {
    const stub = await startStub()
    onTestFinished(() => stub.close())
    const front = await testServer({ database: inject('postgres').url18, reply: () => '', roles: ['http'] })
    onTestFinished(() => front.close())
    await front.chat.sessions.create({ id: 's', userId: 'ann' })
    const first = await startServer({
      database: front.database,
      program: new URL('publisher.mjs', import.meta.url).pathname,
      env: { ABLY_KEY: key, ABLY_URL: stub.endpoint },
    })
    const send = (id: string) => front.chat.send('s', { userId: 'ann', id, text: 'Where to?' })
    const rows = () => queryOnce<{ seq: number; type: string; data: unknown }>(front.database, storedInOrder)
    const events = () => stub.published.filter((each) => !isChunks(each))
    const allPublished = () =>
      eventually(async () => {
        const stored = await rows()
        if (events().length < stored.length) return false
        expect(events().map((each) => ({ seq: seqOf(each), type: each.name, data: JSON.parse(each.data) }))).toEqual(
          stored,
        )
        return true
      })

    if (onItsWay === 'an append') {
      await send('one')
      await eventually(async () => stub.published.some(({ appends }) => appends > 0))
    }
    const arrive = stub.hold(1)
    if (onItsWay === 'an event') await send('one')
    await eventually(async () => stub.toHold() === 0)
    first.signal('SIGSTOP')
    // Of a process each database has one Holdfast.
    const database = new URL(front.database)
    database.searchParams.set('application_name', 'second')
    const second = createHoldfast({
      database: database.href,
      reply: () => 'second',
      ably: ably({ key, endpoint: stub.endpoint }),
      leaseMs: 1_000,
      pollMs: 200,
      log: () => undefined,
    })
    onTestFinished(() => second.close())
    await second.start()
    await front.outcome('s', 'one')
    await allPublished()
    // What it would send now Ably would take for new.
    if (onItsWay === 'an append') stub.later(130_000)
    arrive()
    first.signal('SIGCONT')
    await front.chat.publish('s', 'app.said', 1)
    await allPublished()
    // It lives, and is the one again as soon as nobody else is.
    await second.close()
    await front.chat.publish('s', 'app.said', 2)
    await allPublished()
    expectWhole(stub.published)
  },
)
const storedInOrder = 'select seq, type, data from holdfast.events order by seq'
