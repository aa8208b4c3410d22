/**
 * A session's log grows by random transitions; two clients follow it by the machine while reads see any moment of it
 * and fail, wakeups and offers are lost, doubled, late and in any order, and clients come back with the cursor of any
 * frame that they got. A witness judges by the log itself what each client is shown.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Cursor, decodeCursor, encodeCursor } from '../../src/core/cursor.ts'
import { type ChunkRun, type Event, maySee } from '../../src/core/event.ts'
import {
  createFollowing,
  type FollowInput,
  type Following,
  follow,
  type Item,
  type Page,
} from '../../src/core/following.ts'
import { anyCommand, type Call, type Command, callOf, perform } from '../model/commands.ts'
import * as store from '../model/store.ts'
import { missingAt, type Place, placeNow, problemOf } from '../model/witness.ts'

type Machine = typeof follow
type Note = { events: Event[]; runs: ChunkRun[] }
/** A read under way; `page` as soon as the database has looked. */
type Read = { page: Page | null }
type Shown = { cursor: string; place: Place }
type Client = {
  userId: string
  following: Following
  reads: Read[]
  place: Place
  lastSent: string
  caughtUp: boolean
  /** Where it could come back. */
  shown: Shown[]
  /** Notes up to here were offered in order. */
  heard: number
}
type World = {
  machine: Machine
  model: store.Model
  notes: Note[]
  clients: Client[]
  problems: string[]
  /** What happened, so that a run in which nothing did is no proof. */
  count: { frames: number; reconnects: number; offersUsed: number; failedReads: number }
}

const epoch = 'e1'
const sessionId = 's0'
const weights: Partial<Record<Call['type'], number>> = {
  ...{ accept: 5, claim: 7, append: 14, checkpoint: 2, finish: 3, requeue: 3, fail: 1, stop: 2, expire: 1, advance: 3 },
  ...{ wait: 2, answerWait: 2, retry: 2 },
}

type Step = { what: 'commit' | 'offer' | 'wake' | 'look' | 'page' | 'read-failed' | 'reconnect'; command: Command }
const anyStep: fc.Arbitrary<Step> = fc.record({
  what: fc.constantFrom<Step['what']>(
    ...([
      'commit',
      'commit',
      'commit',
      'commit',
      'commit',
      'commit',
      'offer',
      'offer',
      'offer',
      'offer',
      'wake',
    ] as const),
    ...(['look', 'look', 'page', 'page', 'page', 'read-failed', 'reconnect'] as const),
  ),
  command: anyCommand(weights),
})
const anySteps = fc.array(anyStep, { minLength: 1, maxLength: 110, size: 'max' })

function createWorld(machine: Machine): World {
  const model = store.createModel()
  store.createSession(model, sessionId, 'ann')
  const count = { frames: 0, reconnects: 0, offersUsed: 0, failedReads: 0 }
  const world: World = { machine, model, notes: [], clients: [], problems: [], count }
  world.clients = ['ann', 'bob'].map((userId) => connect(world, userId, startPlace()))
  return world
}

const startPlace = (): Shown => ({
  cursor: encodeCursor({ epoch, seq: 0, open: new Map() }),
  place: { seq: 0, next: new Map() },
})

function connect(world: World, userId: string, { cursor, place }: Shown): Client {
  const client: Client = {
    userId,
    following: createFollowing(decodeCursor(cursor) as Cursor),
    reads: [],
    place: { seq: place.seq, next: new Map(place.next) },
    lastSent: cursor,
    caughtUp: false,
    shown: [{ cursor, place }],
    heard: world.notes.length,
  }
  input(world, client, { type: 'start' })
  return client
}

function input(world: World, client: Client, what: FollowInput): void {
  for (const effect of world.machine(client.following, what)) {
    if (effect.type === 'read') client.reads.push({ page: null })
    if (effect.type === 'show') for (const item of effect.items) show(world, client, item)
    if (effect.type === 'reset') world.problems.push(`reset: ${effect.reason}`)
    if (effect.type === 'caught-up') {
      if (client.caughtUp) world.problems.push('caught up twice')
      client.caughtUp = true
    }
  }
}

/** As the hub does it: what is outside the audience is left out, and only makes the next cursor larger. */
function show(world: World, client: Client, item: Item): void {
  if (!maySee('event' in item ? item.event.audience : item.run.audience, client.userId)) return
  const { place, userId } = client
  world.count.frames++
  const problem = problemOf(place, store.sessionOf(world.model, sessionId), userId, item) ?? cursorProblem(client, item)
  if (problem) world.problems.push(problem)
  client.lastSent = item.cursor
  client.shown.push({ cursor: item.cursor, place: { seq: place.seq, next: new Map(place.next) } })
}

function cursorProblem({ lastSent, place }: Client, item: Item): string | null {
  const cursor = decodeCursor(item.cursor)
  if (cursor === null || cursor.epoch !== epoch) return `${item.cursor} is no cursor of this log`
  if (item.cursor === lastSent) return `${item.cursor} is the cursor of two frames`
  if ('event' in item) return cursor.seq === item.event.seq ? null : `${item.cursor} came with event ${item.event.seq}`
  return cursor.seq >= place.seq ? null : `${item.cursor} came after event ${place.seq}`
}

function take(world: World, { what, command }: Step): void {
  const client = world.clients[command.c % 2]!
  const read = client.reads[command.a % Math.max(1, client.reads.length)]
  switch (what) {
    case 'commit':
      commit(world, command)
      break
    case 'offer':
      offer(world, client, command)
      break
    case 'wake':
      input(world, client, { type: 'wake' })
      break
    case 'look':
      if (read) read.page ??= look(world, client, command)
      break
    case 'page':
      if (read) answer(world, client, read, { type: 'page', page: read.page ?? look(world, client, command) })
      break
    case 'read-failed':
      if (read) answer(world, client, read, { type: 'read-failed' })
      break
    case 'reconnect':
      world.count.reconnects++
      world.clients[command.c % 2] = connect(world, client.userId, anyPlace(world, client.userId, command))
  }
}

function answer(world: World, client: Client, read: Read, what: FollowInput): void {
  if (what.type === 'read-failed') world.count.failedReads++
  client.reads.splice(client.reads.indexOf(read), 1)
  input(world, client, what)
}

function commit(world: World, command: Command): void {
  const call = callOf(world.model, command)
  if (call === null) return
  const before = store.sessionOf(world.model, sessionId).events.length
  const answer = perform(world.model, call)
  const events = store.sessionOf(world.model, sessionId).events.slice(before)
  const runs =
    call.type === 'append' && answer !== 'conflict' ? (answer as { run: ChunkRun }[]).map(({ run }) => run) : []
  if (events.length > 0 || runs.length > 0) world.notes.push({ events, runs })
}

/** Mostly the next that was not heard yet, else the newest or any. */
function offer(world: World, client: Client, { a, b }: Command): void {
  const at = a % 5 === 0 ? b % Math.max(1, world.notes.length) : a % 5 === 1 ? world.notes.length - 1 : client.heard++
  const note = world.notes[at]
  if (!note) return
  const before = client.shown.length
  input(world, client, { type: 'offer', ...note })
  if (client.shown.length > before) world.count.offersUsed++
}

function look({ model }: World, { following }: Client, { a, b }: Command): Page {
  return store.readPage(model, sessionId, following, { eventsMax: 1 + (a % 6), runsMax: 1 + (b % 4) })!
}

/** The cursor of any frame that either client got, one of now, or one as an accept gives it: without open attempts. */
function anyPlace(world: World, userId: string, { a, b }: Command): Shown {
  const session = store.sessionOf(world.model, sessionId)
  if (a % 6 === 0) {
    const now = store.readNow(world.model, sessionId)!
    return { cursor: encodeCursor({ epoch, ...now }), place: placeNow(session) }
  }
  if (a % 6 === 1) {
    const seq = b % (session.events.length + 1)
    return { cursor: encodeCursor({ epoch, seq, open: new Map() }), place: { seq, next: new Map() } }
  }
  const giver = world.clients[a % 2]!
  const { shown } = giver
  const last = shown[b % 3 === 0 ? b % shown.length : shown.length - 1]!
  return giver.userId === userId ? last : placeOfCursor(last.cursor)
}

/** A cursor of somebody else says what both have by it, also where it passed over what only the other may see. */
function placeOfCursor(cursor: string): Shown {
  const { seq, open } = decodeCursor(cursor)!
  return { cursor, place: { seq, next: new Map([...open].map(([position, { index }]) => [position, index])) } }
}

/** From now on everything works: whatever was lost before, one wakeup must be enough. */
function settleDown(world: World): void {
  const large: Command = { type: 'claim', a: 5, b: 3, c: 0 }
  for (const client of world.clients) {
    input(world, client, { type: 'wake' })
    drain(world, client, large)
    const missing = missingAt(client.place, store.sessionOf(world.model, sessionId), client.userId)
    if (missing) world.problems.push(missing)
    if (!client.caughtUp) world.problems.push('never caught up')
  }
}

function drain(world: World, client: Client, command: Command): void {
  for (let reads = 0; client.reads.length > 0; reads++) {
    if (reads > 1_000) {
      world.problems.push('reads without end')
      return
    }
    const { page } = client.reads.shift()!
    input(world, client, { type: 'page', page: page ?? look(world, client, command) })
  }
}

function run(machine: Machine, steps: Step[]): World {
  const world = createWorld(machine)
  for (const step of steps) {
    take(world, step)
    if (world.problems.length > 0) return world
  }
  settleDown(world)
  return world
}

it('shows each visible event once and in order, and the chunks of the latest attempt without a gap (I5, I6)', () => {
  const total = { frames: 0, reconnects: 0, offersUsed: 0, failedReads: 0 }
  fc.assert(
    fc.property(anySteps, (steps) => {
      const { problems, count } = run(follow, steps)
      for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += count[name]
      expect(problems).toEqual([])
    }),
    { numRuns: 10_000 },
  )
  expect(Math.min(...Object.values(total))).toBeGreaterThan(5_000)
})

describe('the same property catches a machine that', () => {
  const mutants: Record<string, Machine> = {
    'uses an offer without asking whether it fits': (following, input) =>
      input.type === 'offer' && !following.reading ? force(following, input) : follow(following, input),
    'takes an event after a gap': (following, input) => {
      const first = input.type === 'offer' && !following.reading ? input.events[0] : undefined
      if (first) following.seq = Math.max(following.seq, first.seq - 1)
      return follow(following, input)
    },
    'does not look at the index of chunks': (following, input) => {
      for (const { position, attempt, index } of offeredRuns(following, input)) {
        if (following.open.get(position)?.attempt === attempt) following.open.set(position, { attempt, index })
      }
      return follow(following, input)
    },
    'does not look at the attempt of chunks': (following, input) => {
      for (const { position, attempt, index } of offeredRuns(following, input)) {
        if (following.open.has(position)) following.open.set(position, { attempt, index })
      }
      return follow(following, input)
    },
    'lets chunks open a turn that has its outcome': (following, input) => {
      for (const { position, attempt, index } of offeredRuns(following, input)) {
        if (!following.open.has(position) && index === 0) following.open.set(position, { attempt, index })
      }
      return follow(following, input)
    },
    'forgets a wake that comes during a read': (following, input) =>
      following.reading && (input.type === 'wake' || input.type === 'offer') ? [] : follow(following, input),
    'uses an offer during a read': (following, input) => {
      if (input.type !== 'offer' || !following.reading) return follow(following, input)
      following.reading = false
      const effects = follow(following, input).filter(({ type }) => type !== 'read')
      following.reading = true
      return effects
    },
    'reads twice at once': (following, input) =>
      following.reading && input.type === 'wake' ? [{ type: 'read' }] : follow(following, input),
    'never reads again after a read that failed': (following, input) =>
      input.type === 'read-failed' ? [] : follow(following, input),
    'jumps to the end after the first page': (following, input) => {
      if (input.type !== 'page') return follow(following, input)
      const effects = follow(following, { type: 'page', page: { ...input.page, more: false } })
      following.seq = input.page.lastSeq
      return effects
    },
    'gives cursors that lag behind what was sent': (following, input) => {
      let before = encodeCursor(following)
      return follow(following, input).map((effect) => {
        if (effect.type !== 'show') return effect
        return { ...effect, items: effect.items.map((item) => withCursor(item, before, () => (before = item.cursor))) }
      })
    },
    'gives cursors that run ahead of what was sent': (following, input) =>
      follow(following, input).map((effect) => {
        if (effect.type !== 'show') return effect
        const { seq } = decodeCursor(effect.items.at(-1)!.cursor)!
        return {
          ...effect,
          items: effect.items.map((item) => withCursor(item, item.cursor.replace(/\.\d+/, `.${seq}`))),
        }
      }),
    'leaves the index of chunks out of its cursors': (following, input) =>
      follow(following, input).map((effect) => {
        if (effect.type !== 'show') return effect
        return { ...effect, items: effect.items.map((item) => withCursor(item, item.cursor.replace(/:\d+$/, ':0'))) }
      }),
    'does not know where to begin a turn that its cursor does not name': (following, input) => {
      if (input.type !== 'page') return follow(following, input)
      const started = new Set(input.page.events.map((event) => event.position))
      const runs = input.page.runs.filter(({ position }) => following.open.has(position) || started.has(position))
      return follow(following, { type: 'page', page: { ...input.page, runs } })
    },
    'goes on in a later attempt where the one before had come to': (following, input) => {
      const before = new Map(following.open)
      const effects = follow(following, input)
      for (const [position, { index }] of before) {
        const now = following.open.get(position)
        if (now && now.index < index) now.index = index
      }
      return effects
    },
  }

  it.each(Object.entries(mutants))('%s', (_, mutant) => {
    const property = fc.property(anySteps, (steps) => run(mutant, steps).problems.length === 0)
    expect(fc.check(property, { numRuns: 5_000, endOnFailure: true }).failed).toBe(true)
  })

  function offeredRuns({ reading }: Following, input: FollowInput): ChunkRun[] {
    return input.type === 'offer' && !reading ? input.runs : []
  }

  function force(following: Following, { events, runs }: Note): ReturnType<Machine> {
    const items: Item[] = []
    for (const event of events) {
      following.seq = event.seq
      items.push({ cursor: encodeCursor(following), event })
    }
    for (const run of runs) {
      following.open.set(run.position, { attempt: run.attempt, index: run.index + run.n })
      items.push({ cursor: encodeCursor(following), run })
    }
    return [{ type: 'show', items }]
  }

  function withCursor(item: Item, cursor: string, then: () => void = () => undefined): Item {
    then()
    return { ...item, cursor }
  }
})

it('resets a follower whose cursor is ahead of the log, and one whose chunks have a hole before them', () => {
  const at = (text: string) => createFollowing(decodeCursor(text)!)
  const page: Page = { events: [], runs: [], more: false, lastSeq: 3 }
  expect(follow(at('e1.4'), { type: 'page', page })).toEqual([{ type: 'reset', reason: 'ahead' }])
  const run = { turnId: 't', messageId: 'r', position: 1, audience: null, attempt: 1, index: 2, n: 1, json: '[]' }
  const gap = { ...page, runs: [run] }
  expect(follow(at('e1.3.1:1:0'), { type: 'page', page: gap })).toEqual([{ type: 'reset', reason: 'gap' }])
  expect(follow(at('e1.3'), { type: 'page', page: gap })).toEqual([{ type: 'reset', reason: 'gap' }])
  expect(follow(at('e1.3.1:1:2'), { type: 'page', page: gap })).toMatchObject([{ type: 'show' }, { type: 'caught-up' }])
})
