import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Accepted, createAcceptor } from '../../src/store/accept.ts'
import { type Database, DatabaseError } from '../../src/store/database.ts'
import { finishIfHeld } from '../../src/store/turns.ts'
import { claimAll } from '../races/held.ts'
import { onPoint } from '../support/points.mjs'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, disorder, lostHeads, openStored, type Stored, sessionsOf } from '../support/stored.ts'

/** How often the batched and the single statement were sent since `watch`. */
const sent = { together: 0, one: 0 }
function watch(): void {
  sent.together = 0
  sent.one = 0
  onPoint('accept.together', () => void sent.together++)
  onPoint('accept.one', () => void sent.one++)
}

describe.each(postgresVersions)('accepting on Postgres %i', (version) => {
  let stored: Stored
  beforeEach(async () => {
    stored = await openStored(version)
    watch()
  })
  afterEach(() => stored.close())

  test('many at once become few statements, and seq is dense in each session (I4)', async () => {
    const database = stored.open()
    const sessions = await sessionsOf(database, 10)
    const acceptor = createAcceptor(database)
    const messages = Array.from({ length: 400 }, (_, at) => acceptanceOf(sessions[at % sessions.length]!))
    const answers = await Promise.all(messages.map((each) => acceptor.accept(each)))
    expect(answers.every(({ outcome }) => outcome === 'created')).toBe(true)
    expect(sent.together).toBeGreaterThan(0)
    expect(sent.together + sent.one).toBeLessThan(messages.length / 2)
    expect(await disorder(stored)).toEqual([])
  })

  test('one id from two processes at once is one message and one turn, and all are told the same (I1, I4)', async () => {
    const processes = [stored.open(), stored.open()].map(createAcceptor)
    const [one, other] = await sessionsOf(stored.open(), 2)
    for (let round = 0; round < 20; round++) {
      const id = `m${round}`
      const same = Array.from({ length: 50 }, (_, at) => processes[at % 2]!.accept(acceptanceOf(one!, id)))
      const beside = Array.from({ length: 30 }, (_, at) =>
        processes[at % 2]!.accept(acceptanceOf(at % 3 ? other! : one!)),
      )
      const answers = (await Promise.all(same)).map(told)
      await Promise.all(beside)
      expect(new Set(answers.map(({ ids }) => ids)).size).toBe(1)
      expect(answers.filter(({ outcome }) => outcome === 'created')).toHaveLength(1)
      expect(answers.filter(({ outcome }) => outcome === 'same')).toHaveLength(49)
    }
    expect(sent.together).toBeGreaterThan(20)
    expect(await stored.query('select count(*)::int as n from holdfast.turns')).toEqual([{ n: 20 * 31 }])
    expect(await disorder(stored)).toEqual([])
  })

  test('one id with two bodies is a conflict for one of them, also within a batch', async () => {
    const processes = [stored.open(), stored.open()].map(createAcceptor)
    const [session] = await sessionsOf(stored.open(), 1)
    for (const at of [processes[0]!, processes[1]!]) {
      const id = randomUUID()
      const answers = await Promise.all([
        processes[0]!.accept(acceptanceOf(session!, id, 'this')),
        at.accept(acceptanceOf(session!, id, 'that')),
        processes[0]!.accept(acceptanceOf(session!)),
      ])
      expect(
        answers
          .slice(0, 2)
          .map(({ outcome }) => outcome)
          .sort(),
      ).toEqual(['conflict', 'created'])
      expect(answers[2]!.outcome).toBe('created')
    }
    expect(sent.together).toBeGreaterThan(0)
    expect(await disorder(stored)).toEqual([])
  })

  test('what cannot be stored is refused alone, those of its batch are accepted', async () => {
    const database = stored.open()
    const [session] = await sessionsOf(database, 1)
    const acceptor = createAcceptor(database)
    const good = Array.from({ length: 10 }, () => acceptor.accept(acceptanceOf(session!)))
    const bad = acceptor
      .accept({ ...acceptanceOf(session!), parts: '[{"text":"\\u0000"}]' })
      .catch((error: unknown) => error)
    expect(await bad).toBeInstanceOf(DatabaseError)
    expect(await bad).toMatchObject({ kind: 'bad_data' })
    expect((await Promise.all(good)).every(({ outcome }) => outcome === 'created')).toBe(true)
    expect(sent.together).toBeGreaterThan(0)
    expect(await disorder(stored)).toEqual([])
  })

  test('a session that somebody has locked holds up its own messages only', async () => {
    const database = stored.open()
    const [locked, free] = await sessionsOf(database, 2)
    const acceptor = createAcceptor(database)
    const { waits, done } = await stored.open().transaction(async (query) => {
      await query('select from holdfast.sessions where id = $1 for no key update', [locked])
      const waits = acceptor.accept(acceptanceOf(locked!))
      const goes = acceptor.accept(acceptanceOf(free!))
      return { waits: { promise: waits }, done: (await goes).outcome }
    })
    expect(done).toBe('created')
    expect((await waits.promise).outcome).toBe('created')
  })

  test('strangers, readers and missing sessions are refused without a trace in the log', async () => {
    const database = stored.open()
    const [session] = await sessionsOf(database, 1)
    await stored.query(
      `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', 's0', 'rita', 'reader')`,
    )
    const acceptor = createAcceptor(database)
    const outcomes = await Promise.all([
      acceptor.accept({ ...acceptanceOf(session!), userId: 'eve' }),
      acceptor.accept({ ...acceptanceOf(session!), userId: 'rita' }),
      acceptor.accept(acceptanceOf('elsewhere')),
      acceptor.accept(acceptanceOf(session!)),
    ])
    expect(outcomes.map(({ outcome }) => outcome)).toEqual(['not_found', 'forbidden', 'not_found', 'created'])
    expect(await stored.query('select next_seq from holdfast.sessions')).toEqual([{ next_seq: 2 }])
  })

  test('the head of a lane is always due, whoever ended the turn before it while messages came in (I2)', async () => {
    const raced = await race(stored, rewritten(stored.open(), slowly))
    expect(raced.finished).toBe(rounds * lanes)
    // Entries that the batch left over because their session was locked, or because its next_seq had moved.
    expect(raced.leftByBatch).toBeGreaterThan(rounds)
    expect(raced.lost).toBe(0)
    expect(await disorder(stored)).toEqual([])
  })

  test('without the comparison of next_seq the same race leaves heads that nobody makes due', async () => {
    const naively = (text: string) => replaced(slowly(text), ' and l.next_seq = l.seen_seq', '')
    const raced = await race(stored, rewritten(stored.open(), naively))
    expect(raced.finished).toBe(rounds * lanes)
    expect(raced.lost).toBeGreaterThan(rounds)
  })
})

/** The message's, reply's and turn's ids and the message, as a sender is told. */
function told(accepted: Accepted): { outcome: string; ids: string } {
  if (accepted.outcome !== 'created' && accepted.outcome !== 'same') return { outcome: accepted.outcome, ids: '' }
  const { seq, json } = accepted.outcome === 'created' ? accepted.event : accepted
  const { message, reply, turn } = JSON.parse(json)
  return { outcome: accepted.outcome, ids: JSON.stringify([seq, message, reply.id, turn.id]) }
}

/** A database to which accept's batch is sent in other words. */
function rewritten(database: Database, words: (text: string) => string): Database {
  return {
    ...database,
    query(lane, statement, values) {
      const isBatch = statement.name === 'accept-many'
      return database.query(lane, isBatch ? { ...statement, text: words(statement.text) } : statement, values)
    },
  }
}

/** Time passes between the statement's snapshot and its locks: what is a rare moment otherwise is the usual one. */
const slowly = (text: string) => replaced(text, 'select * from unnest(', 'select x.* from pg_sleep(0.02), unnest(')

function replaced(text: string, from: string, to: string): string {
  if (!text.includes(from)) throw new Error(`accept-many does not say "${from}" any more`)
  return text.replace(from, to)
}

const rounds = 12
const lanes = 40

/**
 * One process accepts a batch for forty lanes while another finishes the one turn of each: whoever comes second must
 * see the first. Counts the heads that were left without a due time, and mends them for the next round.
 */
async function race(stored: Stored, accepting: Database) {
  const finishing = [stored.open(), stored.open(), stored.open()]
  const sessions = await sessionsOf(accepting, lanes)
  const acceptor = createAcceptor(accepting)
  const counted = { finished: 0, lost: 0, leftByBatch: 0 }
  const empty = { nextIndex: 0, parts: [], metadata: null, model: null, preview: null }
  await Promise.all(sessions.map((each) => acceptor.accept(acceptanceOf(each))))
  for (let round = 0; round < rounds; round++) {
    const { claimed } = await claimAll(finishing[0]!, 'a runner')
    watch()
    const accepts = sessions.map((each) => acceptor.accept(acceptanceOf(each)))
    const finishes = claimed.map((each, at) => finishIfHeld(finishing[at % 3]!, each, empty, []))
    counted.finished += (await Promise.all(finishes)).filter(({ outcome }) => outcome === 'stored').length
    await Promise.all(accepts)
    counted.leftByBatch += sent.one
    const lost = await lostHeads(stored)
    counted.lost += lost
    if (lost > 0) await stored.query('select holdfast.repair_lanes(1000)')
  }
  return counted
}
