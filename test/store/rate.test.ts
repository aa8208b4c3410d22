/** How often a user may send: counted in the database, in the statement that accepts. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Accepted, type Allowance, createAcceptor } from '../../src/store/accept.ts'
import type { Database } from '../../src/store/database.ts'
import { onPoint } from '../support/points.mjs'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, disorder, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'

const sent = { together: 0, one: 0 }

describe.each(postgresVersions)('a limit of sends on Postgres %i', (version) => {
  let stored: Stored
  beforeEach(async () => {
    stored = await openStored(version)
    sent.together = 0
    sent.one = 0
    onPoint('accept.together', () => void sent.together++)
    onPoint('accept.one', () => void sent.one++)
  })
  afterEach(() => stored.close())

  /** The same as if a minute passed. */
  const minutePasses = () =>
    stored.query(`update holdfast.limits set sends = array(select at - interval '60 s' from unnest(sends) at)`)

  test('of many messages at once to two processes and ten sessions exactly as many as allowed are stored, minute after minute', async () => {
    const processes = [stored.open(), stored.open()].map((each) => createAcceptor(each))
    const sessions = await sessionsOf(stored.open(), 10)
    for (let minute = 1; minute <= 12; minute++) {
      const asked = Array.from({ length: 80 }, (_, at) => ({ ...acceptanceOf(sessions[at % 10]!), sendsMax: 7 }))
      const answers = await Promise.all(asked.map((each, at) => processes[at % 2]!.accept(each)))
      expect(counted(answers)).toEqual({ created: 7, rate_limited: 73 })
      expect(await stored.query('select count(*)::int as n from holdfast.turns')).toEqual([{ n: 7 * minute }])
      await minutePasses()
    }
    expect(sent.together).toBeGreaterThan(12)
    expect(sent.one).toBeGreaterThan(0)
    expect(await disorder(stored)).toEqual([])
  })

  test('two batches that saw the same count before either had the lock store together what is allowed', async () => {
    const processes = [stored.open(), stored.open()].map((each) => createAcceptor(slowly(each)))
    const sessions = await sessionsOf(stored.open(), 40)
    // From here on the user has a row, so batches decide by themselves.
    await processes[0]!.accept({ ...acceptanceOf(sessions[0]!), sendsMax: 5 })
    for (let minute = 1; minute <= 12; minute++) {
      await minutePasses()
      const asked = sessions.map((each) => ({ ...acceptanceOf(each), sendsMax: 5 }))
      const answers = await Promise.all(asked.map((each, at) => processes[at % 2]!.accept(each)))
      expect(counted(answers)).toEqual({ created: 5, rate_limited: 35 })
      const [row] = await stored.query<{ n: number }>('select cardinality(sends) as n from holdfast.limits')
      expect(row).toEqual({ n: 5 })
    }
    expect(await disorder(stored)).toEqual([])
  })

  test('a user with room sends in batches; the others of a batch are stored whatever becomes of one user', async () => {
    const acceptor = createAcceptor(stored.open())
    const sessions = await sessionsOf(stored.open(), 10)
    await stored.query(
      `insert into holdfast.members (tenant_id, session_id, user_id, role)
         select tenant_id, id, 'bob', 'member' from holdfast.sessions`,
    )
    const of = (user: string, at: number) => ({ ...acceptanceOf(sessions[at % 10]!), userId: user, sendsMax: 100 })
    await Promise.all([acceptor.accept(of('ann', 0)), acceptor.accept(of('bob', 0))])
    sent.one = 0
    const asked = Array.from({ length: 400 }, (_, at) => (at % 10 < 8 ? of('ann', at) : of('bob', at)))
    const answers = await Promise.all(asked.map((each) => acceptor.accept(each)))
    const byUser = (user: string) => counted(answers.filter((_, at) => asked[at]!.userId === user))
    expect(byUser('ann')).toEqual({ created: 99, rate_limited: 221 })
    expect(byUser('bob')).toEqual({ created: 80 })
    expect(sent.one).toBeLessThan(100)
    expect(await disorder(stored)).toEqual([])
  })

  test('what is not stored for another reason, and a repeated send, is not counted; a repeated one is answered also past the limit', async () => {
    const acceptor = createAcceptor(stored.open())
    const [session] = await sessionsOf(stored.open(), 1)
    const limited = (messageId: string, text = 'hi') => ({ ...acceptanceOf(session!, messageId, text), sendsMax: 2 })
    const once = async (ask: Parameters<typeof acceptor.accept>[0]) => (await acceptor.accept(ask)).outcome
    expect(await once(limited('m1'))).toBe('created')
    expect(await once(limited('m1', 'other'))).toBe('conflict')
    expect(await once({ ...limited('m2'), userId: 'eve' })).toBe('not_found')
    for (let n = 0; n < 5; n++) expect(await once(limited('m1'))).toBe('same')
    expect(await once(limited('m2'))).toBe('created')
    expect(await once(limited('m3'))).toBe('rate_limited')
    expect(await once(limited('m2'))).toBe('same')
    // In batches, too.
    const together = ['m1', 'm4', 'm2', 'm5', 'm1'].map((id) => acceptor.accept(limited(id)))
    const outcomes = (await Promise.all(together)).map(({ outcome }) => outcome)
    expect(outcomes).toEqual(['same', 'rate_limited', 'same', 'rate_limited', 'same'])
    expect(await stored.query('select user_id, cardinality(sends) as n from holdfast.limits')).toEqual([
      { user_id: 'ann', n: 2 },
    ])
  })

  test('the answer says how many are left and when the next becomes free, singly and in a batch', async () => {
    const acceptor = createAcceptor(stored.open())
    const [session] = await sessionsOf(stored.open(), 1)
    const send = async (sendsMax: number) => allowanceOf(await acceptor.accept({ ...acceptanceOf(session!), sendsMax }))
    const sendTwo = async (sendsMax: number) => {
      const asked = [1, 2].map(() => acceptor.accept({ ...acceptanceOf(session!), sendsMax }))
      return (await Promise.all(asked)).map(allowanceOf)
    }
    // Sent 50, 40 and 30 seconds ago, and once more than a minute ago.
    await stored.query(
      `insert into holdfast.limits select $1, $2, array(select now() - make_interval(secs => s) from unnest(array[70, 50, 40, 30]) s)`,
      [tenantId, userId],
    )
    const close = (seconds: number) => expect.closeTo(seconds * 1_000, -4)
    expect(await send(5)).toEqual({ max: 5, left: 1, freeInMs: close(10), outcome: 'created' })
    expect(await send(4)).toEqual({ max: 4, left: 0, freeInMs: close(10), outcome: 'rate_limited' })
    // A limit that was lowered: two have to become free first.
    expect(await send(3)).toMatchObject({ max: 3, left: 0, freeInMs: close(20), outcome: 'rate_limited' })
    expect(await sendTwo(3)).toEqual(
      [1, 2].map(() => ({ max: 3, left: 0, freeInMs: close(20), outcome: 'rate_limited' })),
    )
    expect(await sendTwo(5)).toEqual([
      { max: 5, left: 0, freeInMs: close(10), outcome: 'created' },
      { max: 5, left: 0, freeInMs: close(10), outcome: 'rate_limited' },
    ])
    expect(await send(0)).toEqual({ outcome: 'created' })
    expect(await stored.query('select cardinality(sends) as n from holdfast.limits')).toEqual([{ n: 5 }])
  })

  test('another user, and the same name of another tenant, has a limit of its own', async () => {
    const database = stored.open()
    const acceptor = createAcceptor(database)
    await stored.query(
      `insert into holdfast.sessions (tenant_id, id) values ('default', 's'), ('other', 's');
       insert into holdfast.members (tenant_id, session_id, user_id, role)
         values ('default', 's', 'ann', 'owner'), ('default', 's', 'bob', 'member'), ('other', 's', 'ann', 'owner')`,
    )
    const of = (tenant: string, user: string) => ({ ...acceptanceOf('s'), tenantId: tenant, userId: user, sendsMax: 1 })
    const three = [of('default', 'ann'), of('default', 'bob'), of('other', 'ann')]
    for (const outcome of ['created', 'rate_limited']) {
      const answers = await Promise.all(
        three.map((each) => acceptor.accept({ ...each, messageId: `${outcome}-${each.userId}` })),
      )
      expect(answers.map((each) => each.outcome)).toEqual([outcome, outcome, outcome])
    }
  })
})

function counted(answers: Accepted[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { outcome } of answers) counts[outcome] = (counts[outcome] ?? 0) + 1
  return counts
}

function allowanceOf(accepted: Accepted): (Partial<Allowance> & { outcome: string }) | null {
  const { outcome } = accepted
  if (outcome !== 'created' && outcome !== 'rate_limited') return null
  const { max, left, freeInMs } = accepted.allowance ?? {}
  return max === undefined ? { outcome } : { max, left, freeInMs, outcome }
}

/** A database in which time passes between a batch's snapshot and its locks. */
function slowly(database: Database): Database {
  return {
    ...database,
    query(purpose, statement, values) {
      if (statement.name !== 'accept-many') return database.query(purpose, statement, values)
      const text = statement.text.replace('select * from unnest(', 'select x.* from pg_sleep(0.02), unnest(')
      if (text === statement.text) throw new Error('accept-many does not begin as it did')
      return database.query(purpose, { ...statement, text }, values)
    },
  }
}
