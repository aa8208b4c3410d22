import { describe, expect, test } from 'vitest'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import { decodeCursor } from '../../src/core/cursor.ts'
import { type Event, maySee } from '../../src/core/event.ts'
import { createFold, type Fold } from '../../src/core/fold.ts'
import { createFollowing, cursorOf, follow, type Item } from '../../src/core/following.ts'
import { readSnapshot } from '../../src/log/snapshot.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { appendIfHeld } from '../../src/store/chunks.ts'
import type { Database } from '../../src/store/database.ts'
import { readNow, readPage } from '../../src/store/log.ts'
import { type Claimed, requeueIfHeld } from '../../src/store/turns.ts'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, disorder, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { claimAll, endLease, finish, rowOf, shuffled, stopAsk, textUpTo } from './held.ts'

/**
 * The naive reader reads events and then chunks, in two statements: it showed attempt 2's chunks before its
 * `attempt.started`. The naive snapshot reads messages, then the cursor, in a READ COMMITTED transaction: what was
 * committed between them was lost for ever. Here readers take snapshots and follow from them, cutting pages at
 * random and going on from the cursor that a client would have then, beside 5,000 commits.
 */
const commitsMin = 5_000
const epoch = 'e'

describe.each(postgresVersions)('snapshot and follow on PostgreSQL %i', (version) => {
  test('miss nothing, show nothing early and end with what is stored, beside 5,000 commits (I5, I6, I7)', {
    timeout: 120_000,
  }, async () => {
    const stored = await openStored(version)
    try {
      await provoke(stored)
    } finally {
      await stored.close()
    }
  })
})

async function provoke(stored: Stored): Promise<void> {
  const sessions = await sessionsOf(stored.open(), 4)
  await stored.query(
    `insert into holdfast.members (tenant_id, session_id, user_id, role) select $1, unnest($2::text[]), 'bob', 'member'`,
    [tenantId, sessions],
  )
  await hideSome(stored)
  const writing = { over: false, commits: 0 }
  const database = stored.open()
  const readers = sessions.flatMap((id, at) => [
    read(database, id, userId, writing),
    read(database, id, at % 2 === 0 ? 'bob' : userId, writing),
  ])
  const seen = await Promise.all([write(stored, sessions, writing), ...readers]).then(([, ...each]) => each)
  const total = (key: keyof Seen) => seen.reduce((sum, each) => sum + each[key], 0)
  expect(writing.commits).toBeGreaterThanOrEqual(commitsMin)
  expect(total('snapshots')).toBeGreaterThan(50)
  expect(total('openAtSnapshot')).toBeGreaterThan(20)
  expect(total('chunks')).toBeGreaterThan(500)
  expect(total('cuts')).toBeGreaterThan(100)
  expect(total('hidden')).toBeGreaterThan(20)
  expect(await disorder(stored)).toEqual([])
}

type Writing = { over: boolean; commits: number }

/** One process accepts, claims, appends and ends; some turns are for one user only. */
async function write(stored: Stored, sessions: string[], writing: Writing): Promise<void> {
  const database = stored.open()
  const acceptor = createAcceptor(database)
  const running = new Map<string, { claimed: Claimed; index: number }>()
  while (writing.commits < commitsMin) {
    const busy = new Set([...running.values()].map(({ claimed }) => claimed.sessionId))
    for (const id of sessions.filter((each) => !busy.has(each))) {
      await acceptor.accept(acceptanceOf(id))
      writing.commits += 2
    }
    const { claimed } = await claimAll(database, 'w', { crashesMax: 1_000 })
    for (const each of claimed) running.set(each.turnId, { claimed: each, index: 0 })
    writing.commits += claimed.length
    const batch = shuffled([...running.values()]).slice(0, 3)
    const rows = batch.map(({ claimed: key, index }) => rowOf(key, index, 1 + (index % 3)))
    const held = await appendIfHeld(database, rows, 60_000)
    for (const row of rows) if (held.has(row.turnId)) running.get(row.turnId)!.index += row.n
    writing.commits += rows.length
    if (Math.random() < 0.3) writing.commits += await endSome(stored, database, running)
  }
  for (const each of running.values()) await finish(database, each.claimed, each.index)
  writing.over = true
}

/** Half of the turns are for one user only, with all that belongs to them, as a lane of one's own would have it. */
async function hideSome({ query }: Stored): Promise<void> {
  await query(`
    create function hide() returns trigger language plpgsql as $$
    declare turn uuid := case tg_table_name when 'turns' then to_jsonb(new) ->> 'id' else to_jsonb(new) ->> 'turn_id' end;
    begin
      new.audience := (array['user:ann', 'not:bob'])[1 + get_byte(uuid_send(turn), 15) % 4];
      return new;
    end $$`)
  for (const table of ['turns', 'messages', 'events']) {
    await query(`create trigger hide before insert on holdfast.${table} for each row execute function hide()`)
  }
}

async function endSome(
  stored: Stored,
  database: Database,
  running: Map<string, { claimed: Claimed; index: number }>,
): Promise<number> {
  const [each] = shuffled([...running.values()])
  if (!each) return 0
  const { claimed, index } = each
  const dice = Math.random()
  if (dice < 0.4) await finish(database, claimed, index)
  else if (dice < 0.6) await stopTurn(database, stopAsk(claimed.sessionId, claimed.messageId))
  else if (dice < 0.8) await requeueIfHeld(database, claimed, { reason: 'error', code: null, retryMs: 0 }, [])
  else await endLease(stored, claimed.turnId)
  running.delete(claimed.turnId)
  return 1
}

type Seen = { snapshots: number; openAtSnapshot: number; chunks: number; cuts: number; hidden: number }

/** Follows from a snapshot for some pages, then takes the next; the last one goes to the end of the log. */
async function read(database: Database, sessionId: string, user: string, writing: Writing): Promise<Seen> {
  const seen: Seen = { snapshots: 0, openAtSnapshot: 0, chunks: 0, cuts: 0, hidden: 0 }
  while (!writing.over || seen.snapshots === 0) {
    const client = await snapshotClient(database, sessionId, user, seen)
    const pages = 3 + Math.floor(Math.random() * 40)
    for (let page = 0; page < pages || writing.over; page++) {
      const wasOver = writing.over
      const items = await client.readOn(Math.random() < 0.5)
      if (wasOver && items === 0) break
    }
    if (writing.over) await client.checkEnd()
  }
  return seen
}

/** What a client holds: messages by id, the fold of each open reply, and where it stands. */
async function snapshotClient(database: Database, sessionId: string, user: string, seen: Seen) {
  const snapshot = (await readSnapshot(database, epoch, { tenantId, sessionId, userId: user, limit: 1_000_000 }))!
  seen.snapshots++
  seen.openAtSnapshot += snapshot.open.filter(({ chunks }) => chunks.length > 0).length
  const messages = new Map((snapshot.messages as { id: string; parts: Part[] }[]).map((each) => [each.id, each]))
  const open = new Map<string, { attempt: number; index: number; fold: Fold }>()
  for (const { turnId, replyId, attempt, index, chunks } of snapshot.open) {
    const fold = createFold({ parts: messages.get(replyId)!.parts })
    for (const chunk of chunks) fold.push(chunk)
    open.set(turnId, { attempt, index, fold })
    expectText(fold, attempt, index)
  }
  let cursor = snapshot.cursor
  let lastSeq = decodeCursor(cursor)!.seq

  function takeEvent(event: Event): void {
    const data = JSON.parse(event.json)
    expect(event.seq, 'events in order').toBeGreaterThan(lastSeq)
    lastSeq = event.seq
    if (event.type === 'message.created') {
      messages.set(data.message.id, data.message)
      messages.set(data.reply.id, { ...data.reply, parts: [] })
    } else if (event.type === 'attempt.started') {
      open.set(event.turnId!, { attempt: data.attempt, index: 0, fold: createFold({ parts: data.base }) })
    } else if (data.message) {
      const shown = open.get(event.turnId!)
      // Whoever saw all of the attempt that was finished has what the outcome says.
      const text: string = data.message.parts[0]?.text ?? ''
      if (shown && event.type !== 'message.error') expect(text.startsWith(textIn(shown.fold))).toBe(true)
      messages.set(data.message.id, data.message)
      open.delete(event.turnId!)
    }
  }

  function takeRun({ run }: Extract<Item, { run: unknown }>): void {
    const mine = open.get(run.turnId)
    // Never before its attempt.started, never after its outcome, no gap and no double.
    expect(mine && { attempt: mine.attempt, index: mine.index }).toEqual({ attempt: run.attempt, index: run.index })
    for (const chunk of JSON.parse(run.json) as Chunk[]) expect(mine!.fold.push(chunk)).toBe(true)
    mine!.index += run.n
    expectText(mine!.fold, run.attempt, mine!.index)
    seen.chunks++
  }

  return {
    /** Reads a page from the client's cursor as the server does, and may break off after any frame of it. */
    async readOn(mayCut: boolean): Promise<number> {
      const following = createFollowing(decodeCursor(cursor)!)
      const page = (await readPage(database, tenantId, sessionId, following))!
      follow(following, { type: 'start' })
      const effects = follow(following, { type: 'page', page })
      expect(effects.filter(({ type }) => type === 'reset')).toEqual([])
      const items = effects.flatMap((effect) => (effect.type === 'show' ? effect.items : []))
      const isHidden = (item: Item) => !maySee('event' in item ? item.event.audience : item.run.audience, user)
      const until = mayCut ? Math.floor(Math.random() * (items.length + 1)) : items.length
      if (until < items.length) seen.cuts++
      const taken = items.slice(0, until)
      for (const item of taken) {
        // A frame that is not shown does not reach the client: its cursor comes with the next one that does.
        if (isHidden(item)) seen.hidden++
        else {
          'event' in item ? takeEvent(item.event) : takeRun(item)
          cursor = item.cursor
        }
      }
      if (until === items.length && items.length > 0) cursor = cursorOf(following)
      return items.length
    },
    async checkEnd(): Promise<void> {
      const now = (await readNow(database, tenantId, sessionId))!
      const stored = (await readSnapshot(database, epoch, { tenantId, sessionId, userId: user, limit: 1_000_000 }))!
      const mine = decodeCursor(cursor)!
      expect({ seq: mine.seq, open: [...mine.open].toSorted() }).toEqual({
        seq: now.seq,
        open: [...now.open].toSorted(),
      })
      const parts = (all: Iterable<{ id: string; parts: Part[] }>) =>
        Object.fromEntries([...all].map((each) => [each.id, each.parts]))
      expect(parts(messages.values())).toEqual(parts(stored.messages as { id: string; parts: Part[] }[]))
      for (const { turnId, replyId, attempt, index, chunks } of stored.open) {
        const fold = createFold({ parts: messages.get(replyId)!.parts })
        for (const chunk of chunks) fold.push(chunk)
        const shown = open.get(turnId)!
        expect({ attempt: shown.attempt, index: shown.index }).toEqual({ attempt, index })
        expect(shown.fold.parts()).toEqual(fold.parts())
      }
    },
  }
}

const textIn = (fold: Fold) => String(fold.parts()[0]?.text ?? '')

function expectText(fold: Fold, attempt: number, index: number): void {
  expect(textIn(fold)).toBe(textUpTo(attempt, index))
}
