import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import { type Cursor, decodeCursor, encodeCursor } from '../../src/core/cursor.ts'
import { type ChunkRun, type Event, maySee } from '../../src/core/event.ts'
import { createFold, type Fold } from '../../src/core/fold.ts'
import { createFollowing, cursorOf, follow } from '../../src/core/following.ts'
import { createHub, type Hub, type Sink } from '../../src/log/hub.ts'
import { createSeal } from '../../src/log/seal.ts'
import { readSnapshot } from '../../src/log/snapshot.ts'
import { stopTurn } from '../../src/log/stop.ts'
import { createWakeups, type Note } from '../../src/log/wakeups.ts'
import { createAcceptor } from '../../src/store/accept.ts'
import { appendIfHeld } from '../../src/store/chunks.ts'
import type { Database } from '../../src/store/database.ts'
import { readNow, readPage } from '../../src/store/log.ts'
import { type Claimed, requeueIfHeld } from '../../src/store/turns.ts'
import { eventually } from '../support/eventually.ts'
import { postgresVersions } from '../support/postgres.ts'
import { acceptanceOf, disorder, openStored, type Stored, sessionsOf, tenantId, userId } from '../support/stored.ts'
import { claimAll, endLease, finish, rowOf, shuffled, stopAsk, textUpTo } from './held.ts'

/**
 * The naive reader reads events and then chunks, in two statements: it showed attempt 2's chunks before its
 * `attempt.started`. The naive snapshot reads messages, then the cursor, in a READ COMMITTED transaction: what was
 * committed between them was lost for ever. Here readers take snapshots and follow from them, page by page and at the
 * hub of another process that most commits wake, breaking off at random and going on from the cursor that a client
 * would have then, beside 5,000 commits of four processes.
 */
const epoch = 'e'

/** Two logs of half as many, because a snapshot holds all of the log, and the longer it is the fewer there are. */
const rounds = 2
const commitsMin = 2_500

describe.each(postgresVersions)('snapshot and follow on PostgreSQL %i', (version) => {
  test('miss nothing, show nothing early and end with what is stored, beside 5,000 commits (I5, I6, I7)', {
    timeout: 120_000,
  }, async () => {
    for (let round = 0; round < rounds; round++) {
      const stored = await openStored(version)
      try {
        await provoke(stored)
      } finally {
        await stored.close()
      }
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
  const writing: Writing = { over: false, commits: 0, notes: 0, running: new Map() }
  let end!: () => void
  const ended = new Promise<void>((resolve) => {
    end = resolve
  })
  const database = stored.open()
  const { hub, close } = await hubOf(stored.open(), writing)
  const writers = await Promise.all([0, 1, 2, 3].map((n) => writerOf(stored, `w${n}`)))
  const readers = sessions.flatMap((id, at) => [
    read(database, id, at % 2 === 0 ? 'bob' : userId, writing),
    readAtHub(hub, database, id, at % 2 === 0 ? userId : 'bob', writing, ended),
  ])
  const written = Promise.all(
    writers.map((writer, n) =>
      write(
        stored,
        writer,
        sessions.filter((_, at) => at === n),
        writing,
      ),
    ),
  )
  const over = written.then(() => {
    writing.over = true
    end()
  })
  const seen = await Promise.all([over, ...readers]).then(([, ...each]) => each)
  await close()
  for (const { wakeups } of writers) await wakeups.stop()
  const total = (key: keyof Seen) => seen.reduce((sum, each) => sum + each[key], 0)
  expect(writing.commits).toBeGreaterThanOrEqual(commitsMin)
  expect(writing.notes).toBeGreaterThan(commitsMin / 10)
  expect(total('snapshots')).toBeGreaterThan(40)
  expect(total('openAtSnapshot')).toBeGreaterThan(20)
  expect(total('chunks')).toBeGreaterThan(500)
  expect(total('cuts')).toBeGreaterThan(100)
  expect(total('hidden')).toBeGreaterThan(20)
  expect(total('framesOfHub')).toBeGreaterThan(500)
  expect(await disorder(stored)).toEqual([])
}

type Running = { writer: string; claimed: Claimed; index: number }
/** `notes`: wakeups that the hub heard. */
type Writing = { over: boolean; commits: number; notes: number; running: Map<string, Running> }
type Writer = { name: string; database: Database; wakeups: ReturnType<typeof createWakeups> }

async function writerOf(stored: Stored, name: string): Promise<Writer> {
  const database = stored.open()
  return { name, database, wakeups: await wakeupsOf(database) }
}

async function wakeupsOf(database: Database) {
  const seal = createSeal('a key of this test', randomUUID())
  const wakeups = createWakeups({ database, seal, log: () => undefined, enabled: true })
  await wakeups.start()
  return wakeups
}

/** As the http role of a process has it. What no wakeup tells is found by the poll. */
async function hubOf(database: Database, writing: Writing): Promise<{ hub: Hub; close(): Promise<void> }> {
  const hub = createHub({ database, epoch, readEpoch: () => Promise.resolve(epoch), pollMs: 300, log: () => undefined })
  const wakeups = await wakeupsOf(database)
  wakeups.onNote((note) => {
    if (note) writing.notes++
    hub.hear(note)
  })
  hub.start()
  return {
    hub,
    async close() {
      hub.stop()
      await wakeups.stop()
    },
  }
}

/** A process accepts, claims, appends and ends; some turns are for one user only. */
async function write(stored: Stored, writer: Writer, sessions: string[], writing: Writing): Promise<void> {
  const { name, database, wakeups } = writer
  const { running } = writing
  const acceptor = createAcceptor(database)
  /** After the commit, as every process does; now and then it is lost. */
  const tell = (sessionId: string, events: Event[], runs: ChunkRun[] = []) => {
    writing.commits++
    const note: Note = { tenantId, sessionId, events, runs, due: false }
    if (Math.random() < 0.9) wakeups.tell(note)
  }
  const mine = () => [...running.values()].filter((each) => each.writer === name)
  while (writing.commits < commitsMin) {
    const busy = new Set([...running.values()].map(({ claimed }) => claimed.sessionId))
    for (const id of sessions.filter((each) => !busy.has(each))) {
      const accepted = await acceptor.accept(acceptanceOf(id))
      if (accepted.outcome === 'created') tell(id, [accepted.event])
    }
    const looks = mine().length === 0 || Math.random() < 0.3
    const { claimed } = looks ? await claimAll(database, name, { crashesMax: 1_000 }) : { claimed: [] }
    for (const each of claimed) {
      running.set(each.turnId, { writer: name, claimed: each, index: 0 })
      tell(each.sessionId, each.events)
    }
    // A claim of several is one commit.
    writing.commits -= Math.max(0, claimed.length - 1)
    const rows = shuffled(mine())
      .slice(0, 3)
      .map(({ claimed: key, index }) => rowOf(key, index, 1 + (index % 3)))
    const held = await appendIfHeld(database, rows, 60_000)
    for (const { turnId, attempt, index, n, json } of rows.filter((row) => held.has(row.turnId))) {
      const each = running.get(turnId)!
      each.index += n
      const { replyId: messageId, position, audience, sessionId } = each.claimed
      tell(sessionId, [], [{ turnId, messageId, position, audience, attempt, index, n, json }])
    }
    writing.commits -= Math.max(0, held.size - 1)
    if (Math.random() < 0.3) await endSome(stored, database, shuffled(mine())[0], writing, tell)
  }
  for (const each of mine()) {
    const ended = await finish(database, each.claimed, each.index)
    if (ended.outcome === 'stored') tell(each.claimed.sessionId, [ended.event])
  }
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
  each: Running | undefined,
  { running }: Writing,
  tell: (sessionId: string, events: Event[]) => void,
): Promise<void> {
  if (!each) return
  const { claimed, index } = each
  running.delete(claimed.turnId)
  const dice = Math.random()
  const end = async () => {
    if (dice < 0.4) return await finish(database, claimed, index)
    if (dice < 0.6) return await stopTurn(database, stopAsk(claimed.sessionId, claimed.messageId))
    if (dice < 0.8) return await requeueIfHeld(database, claimed, { reason: 'error', code: null, retryMs: 0 }, [])
    return await endLease(stored, claimed.turnId)
  }
  const ended = await end()
  tell(claimed.sessionId, ended && 'event' in ended ? [ended.event] : [])
}

type Seen = Record<'snapshots' | 'openAtSnapshot' | 'chunks' | 'cuts' | 'hidden' | 'framesOfHub', number>
const nothingSeen = (): Seen => ({ snapshots: 0, openAtSnapshot: 0, chunks: 0, cuts: 0, hidden: 0, framesOfHub: 0 })

/** Follows from a snapshot for some pages, then takes the next; the last one goes to the end of the log. */
async function read(database: Database, sessionId: string, user: string, writing: Writing): Promise<Seen> {
  const seen = nothingSeen()
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

/** The same at the hub, over some connections for each snapshot. */
async function readAtHub(
  hub: Hub,
  database: Database,
  sessionId: string,
  user: string,
  writing: Writing,
  ended: Promise<void>,
): Promise<Seen> {
  const seen = nothingSeen()
  while (!writing.over || seen.snapshots === 0) {
    const client = await snapshotClient(database, sessionId, user, seen)
    const connections = 1 + Math.floor(Math.random() * 15)
    for (let n = 0; n < connections && !writing.over; n++) {
      await client.followAt(hub, 1 + Math.floor(Math.random() * 40), ended)
      seen.cuts++
    }
    if (!writing.over) continue
    await client.followToEnd(hub)
    await client.checkEnd()
  }
  return seen
}

/** What a client holds: messages by id, the fold of each open reply, and where it stands. */
/** A user's cursor says nothing of turns that they may not see. */
function seenBy(user: string, { seq, open }: Pick<Cursor, 'seq' | 'open'>): Pick<Cursor, 'seq' | 'open'> {
  const seen = [...open].filter(([, { audience = null }]) => maySee(audience, user))
  return { seq, open: new Map(seen.map(([position, { attempt, index }]) => [position, { attempt, index }])) }
}

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

  function takeEvent(event: Pick<Event, 'seq' | 'type' | 'turnId' | 'json'>): void {
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

  function takeRun(run: Pick<ChunkRun, 'turnId' | 'attempt' | 'index' | 'n' | 'json'>): void {
    const mine = open.get(run.turnId)
    // Never before its attempt.started, never after its outcome, no gap and no double.
    expect(mine && { attempt: mine.attempt, index: mine.index }).toEqual({ attempt: run.attempt, index: run.index })
    for (const chunk of JSON.parse(run.json) as Chunk[]) expect(mine!.fold.push(chunk)).toBe(true)
    mine!.index += run.n
    expectText(mine!.fold, run.attempt, mine!.index)
    seen.chunks++
  }

  /** A socket: it is full now and then, and takes no more than so many frames. */
  function connect(framesMax: number): Sink & { over: Promise<void> } {
    let left = framesMax
    let after = cursor
    let finish!: (error?: unknown) => void
    const over = new Promise<void>((resolve, reject) => {
      finish = (error) => (error === undefined ? resolve() : reject(error))
    })
    const take = (json: string) => {
      const frame = JSON.parse(json)
      expect(frame.after).toBe(after)
      after = frame.cursor
      if (frame.type === 'chunk') takeRun({ ...frame, json: JSON.stringify(frame.chunks) })
      else takeEvent({ ...frame, turnId: frame.turnId ?? null, json: JSON.stringify(frame.data) })
      cursor = frame.cursor
      seen.framesOfHub++
    }
    return {
      over,
      send(frames) {
        try {
          for (const { json } of frames) if (left-- > 0) take(json)
        } catch (error) {
          finish(error)
        }
        if (left <= 0) finish()
      },
      control(word) {
        if (word.type !== 'caught-up') finish(new Error(JSON.stringify(word)))
      },
      room: () => (Math.random() < 0.2 ? new Promise((resolve) => setImmediate(resolve)) : null),
      end: () => finish(new Error('the hub ended it')),
    }
  }

  return {
    /** Reads a page from the client's cursor as the server does, and may break off after any frame of it. */
    async readOn(mayCut: boolean): Promise<number> {
      const sees = (audience: string | null) => maySee(audience, user)
      const following = createFollowing(decodeCursor(cursor)!, sees)
      const page = (await readPage(database, tenantId, sessionId, following, null))!
      follow(following, { type: 'start' })
      const effects = follow(following, { type: 'page', page })
      expect(effects.filter(({ type }) => type === 'reset')).toEqual([])
      const items = effects.flatMap((effect) => (effect.type === 'show' ? effect.items : []))
      seen.hidden += [...page.events, ...page.runs].filter(({ audience }) => !sees(audience)).length
      const until = mayCut ? Math.floor(Math.random() * (items.length + 1)) : items.length
      if (until < items.length) seen.cuts++
      const taken = items.slice(0, until)
      for (const item of taken) {
        'event' in item ? takeEvent(item.event) : takeRun(item.run)
        cursor = item.cursor
      }
      // What is not shown only makes the cursor larger.
      if (until === items.length) cursor = cursorOf(following)
      return items.length + page.events.length
    },
    /** One connection, which ends after so many frames. */
    async followAt(hub: Hub, framesMax: number, ended: Promise<void>): Promise<void> {
      const connection = connect(framesMax)
      const follow = (await hub.follow(
        { tenantId, sessionId, userId: user, cursor: decodeCursor(cursor) },
        connection,
      ))!
      await Promise.race([connection.over, ended]).finally(() => follow.stop())
    },
    async followToEnd(hub: Hub): Promise<void> {
      const connection = connect(Number.POSITIVE_INFINITY)
      const now = seenBy(user, (await readNow(database, tenantId, sessionId))!)
      const end = sortedCursor(encodeCursor({ epoch, ...now }))
      const follow = (await hub.follow(
        { tenantId, sessionId, userId: user, cursor: decodeCursor(cursor) },
        connection,
      ))!
      const isThere = eventually(async () => sortedCursor(follow.cursor()) === end)
      await Promise.race([connection.over, isThere]).finally(() => follow.stop())
      // Frames that are not for this user only make the cursor larger.
      cursor = follow.cursor()
    },
    async checkEnd(): Promise<void> {
      const now = seenBy(user, (await readNow(database, tenantId, sessionId))!)
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

/** The cursor with its open attempts in order. */
function sortedCursor(text: string): string {
  const cursor = decodeCursor(text)!
  return encodeCursor({ ...cursor, open: new Map([...cursor.open].toSorted(([a], [b]) => a - b)) })
}
