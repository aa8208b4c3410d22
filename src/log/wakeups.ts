/**
 * "Look again", within this process at once and to others by NOTIFY, always after commit. A wakeup may be lost,
 * doubled or late; what rides along with it (the events and chunks that were just stored) is used only where it fits
 * exactly. One connection per process listens and notifies; what is told in the same turn of the event loop goes
 * together. A process that hears no other sends nothing: it learns of others by their hello, and they of it. Payloads
 * are sealed (seal.ts): one that none of us has sealed is passed over.
 *
 * Behind a pooler in transaction mode LISTEN answers well and hears nothing. So each listening connection proves itself
 * at its start and every 30 s, by hearing a number that it has told; a process that has not, or has no such connection
 * for a while, is deaf: it says so, looks more often where somebody waits (`lookEveryMs`), and proves on.
 */
import type { ChunkRun, Event } from '../core/event.ts'
import type { PassingFrame } from '../core/frames.ts'
import type { Database, Listener } from '../store/database.ts'
import type { Seal } from './seal.ts'

export type Note = {
  tenantId: string
  sessionId: string
  events: Event[]
  runs: ChunkRun[]
  /** A turn may have fallen due: runners look, too. */
  due: boolean
  /** Of nothing that is stored: then nobody has to look. */
  passing?: Passing
  /** This user has read on: their lists count anew. */
  readBy?: string
  /** Of this user that is told in passing, where the others are to know what their followers were told. */
  presence?: { userId: string; state: 'here' | 'away' | 'gone' }
  /** Of a session that was deleted: the users who were its members, whom nothing else names any more. */
  members?: string[]
  /** Of events that were too large to ride along: whom they concern. */
  audiences?: (string | null)[]
  /** Users who are no members any more. */
  left?: string[]
}

/** A frame for those who follow just now, as JSON text, encoded once for all. `notTo`: a user who is not told. */
export type Passing = { json: string; notTo: string | null }

export function passingNote(
  { tenantId, sessionId }: { tenantId: string; sessionId: string },
  frame: PassingFrame,
  notTo: string | null,
): Note {
  return { tenantId, sessionId, events: [], runs: [], due: false, passing: { json: JSON.stringify(frame), notTo } }
}

export type Wakeups = {
  tell(note: Note): void
  /** `null`: anything may have happened (the connection was away), look at everything. */
  onNote(hear: (note: Note | null) => void): void
  /** Something was added to the outbox, by whomever. */
  onOutbox(hear: () => void): void
  /** Told when it becomes clear that nothing is heard, and when something is again. */
  onDeaf(hear: (deaf: boolean) => void): void
  /** Resolves when this process has heard itself, or it is clear that it does not. */
  start(): Promise<void>
  stop(): Promise<void>
}

const channel = 'holdfast'
/** As `holdfast.outbox_add` tells it, in the transaction of an app that has no seal: whoever else says so makes us look. */
const outboxWord = 'outbox'
/** PostgreSQL allows less than 8,000 bytes; a sealed body is a third larger, and has a head of some 50. */
const bodyBytesMax = 5_800
/** Of the users that one note names, where it goes without what rides along. */
const namesBytesMax = 4_000
const proveEveryMs = 30_000
const peerForgottenMs = 75_000
const proofMs = 2_000
const deafLookMs = 250
const reconnectMs = 250
/** Told between two sends: beyond this, notes go without what rides along. */
const queuedMax = 5_000

/** `nonce`: what proves that it was heard. */
type Body = { hello?: 'new' | 'here'; nonce?: number; notes?: Note[] }

/** How often to look at what somebody waits for: a live reply, a turn to be claimed. */
export function lookEveryMs(pollMs: number, deaf: boolean): number {
  return deaf ? Math.min(pollMs, deafLookMs) : pollMs
}

export function createWakeups(options: {
  database: Database
  seal: Seal
  log: (line: string) => void
  enabled: boolean
  /** Defaults to 30 s. */
  proveEveryMs?: number
}): Wakeups {
  const { database, seal, enabled } = options
  const hearers: ((note: Note | null) => void)[] = []
  const deafHearers: ((deaf: boolean) => void)[] = []
  const outboxHearers: (() => void)[] = []
  const peers = new Map<string, number>()
  /** By nonce. */
  const proofs = new Map<number, () => void>()
  let nonces = 0
  let lastHeard = 0
  let deaf = false
  /** Since when there is no listening connection. */
  let awaySinceMs: number | undefined
  let queued: Note[] = []
  let sending: Promise<void> | undefined
  let listener: Listener | undefined
  let stopped = false
  let saidStrange = false
  let proveTimer: NodeJS.Timeout | undefined
  let reconnectTimer: NodeJS.Timeout | undefined

  const hear = (note: Note | null) => {
    for (const each of hearers) each(note)
  }

  function payloadHeard(text: string): void {
    if (text === outboxWord) {
      for (const each of outboxHearers) each()
      return
    }
    const opened = seal.open(text)
    if (!opened) {
      strangeHeard()
      return
    }
    const body = parseBody(opened.body)
    if (opened.from === seal.processId) {
      proofs.get(body?.nonce ?? 0)?.()
      return
    }
    const known = peers.has(opened.from)
    peers.set(opened.from, performance.now())
    if (body?.hello === 'new' || !known) void send([JSON.stringify({ hello: 'here' } satisfies Body)])
    for (const note of body?.notes ?? []) hear(note)
  }

  function strangeHeard(): void {
    if (saidStrange) return
    saidStrange = true
    options.log(
      'A notification that none of the processes of this database has sealed, or that came twice, was passed over; more will be without a word.',
    )
  }

  async function connect(): Promise<void> {
    if (stopped) return
    try {
      listener = await database.listen(channel, {
        payload: payloadHeard,
        end: () => {
          // One that did not answer is still connected, and would go on hearing.
          listener?.close().catch(() => undefined)
          listener = undefined
          if (!stopped) reconnectTimer = setTimeout(() => void connect(), reconnectMs)
        },
      })
      if (stopped) return void (await listener.close())
      awaySinceMs = undefined
      await prove('new')
      hear(null)
    } catch (error) {
      // A database that is away for a moment is told of by every statement; this need not.
      awaySinceMs ??= performance.now()
      if (performance.now() - awaySinceMs >= proofMs) setDeaf(true, `there is no listening connection (${error})`)
      if (!stopped) reconnectTimer = setTimeout(() => void connect(), reconnectMs)
    }
  }

  async function prove(hello: 'new' | 'here'): Promise<void> {
    const proving = listener
    const nonce = ++nonces
    const heard = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), proofMs)
      timer.unref()
      proofs.set(nonce, () => {
        clearTimeout(timer)
        resolve(true)
      })
    })
    await send([JSON.stringify({ hello, nonce } satisfies Body)])
    const hears = await heard
    proofs.delete(nonce)
    if (hears) lastHeard = Math.max(lastHeard, nonce)
    // Of a connection that has ended nothing more is known than that; and a later proof says more than this one.
    if (proving && listener === proving && nonce >= lastHeard)
      setDeaf(!hears, 'LISTEN hears nothing, as behind a pooler in transaction mode')
  }

  function setDeaf(now: boolean, why: string): void {
    if (deaf === now || stopped) return
    deaf = now
    options.log(
      deaf ? `${why}: what other processes do is learnt by polling, more often than usual.` : 'LISTEN hears again.',
    )
    for (const each of deafHearers) each(deaf)
  }

  async function send(bodies: string[]): Promise<void> {
    const payloads = bodies.map((body) => seal.close(body))
    // A lost wakeup costs one poll interval; the connection's end reconnects.
    await listener?.notify(payloads).catch(() => undefined)
  }

  async function flush(): Promise<void> {
    while (queued.length > 0) {
      const notes = queued
      queued = []
      await send(bodiesOf(notes))
    }
    sending = undefined
  }

  return {
    tell(note) {
      if (!enabled) return
      hear(note)
      // Who hears nothing does not know whether there is anybody.
      if (peers.size === 0 && !deaf) return
      const rides = queued.length < queuedMax && rideOf(note) < bodyBytesMax
      if (!rides && note.passing) return
      queued.push(...(rides ? [note] : bare(note)))
      sending ??= new Promise(setImmediate).then(flush)
    },
    onNote: (each) => void hearers.push(each),
    onOutbox: (each) => void outboxHearers.push(each),
    onDeaf: (each) => void deafHearers.push(each),
    async start() {
      if (!enabled) return
      await connect()
      proveTimer = setInterval(() => {
        const forgotten = performance.now() - peerForgottenMs
        for (const [peer, at] of peers) if (at < forgotten) peers.delete(peer)
        if (listener) void prove('here')
      }, options.proveEveryMs ?? proveEveryMs)
      proveTimer.unref()
    },
    async stop() {
      stopped = true
      clearInterval(proveTimer)
      clearTimeout(reconnectTimer)
      // The last word of a process that goes is what others wait for: a handover.
      await sending
      await listener?.close().catch(() => undefined)
    },
  }
}

/** Characters that ride along, at least: what cannot fit is not kept until it is sent. */
function rideOf({ events, runs, members = [], left = [] }: Note): number {
  const ofNames = [...members, ...left].reduce((sum, userId) => sum + userId.length, 0)
  return [...events, ...runs].reduce((sum, { json }) => sum + json.length, ofNames)
}

/** Without what rides along. Whom it names are told in no other way: of many a part in each of several. */
function bare({ tenantId, sessionId, due, events, readBy, members = [], left = [], ...note }: Note): Note[] {
  const audiences = events.length > 0 ? [...new Set(events.map(({ audience }) => audience))] : note.audiences
  const plain: Note = {
    ...{ tenantId, sessionId, events: [], runs: [], due },
    ...(readBy === undefined ? {} : { readBy }),
    ...(audiences === undefined ? {} : { audiences }),
  }
  const notes: Note[] = [
    ...groupsOf(members).map((some) => ({ ...plain, members: some })),
    ...groupsOf(left).map((some) => ({ ...plain, left: some })),
  ]
  return notes.length > 0 ? notes : [plain]
}

function groupsOf(names: string[]): string[][] {
  const groups: string[][] = []
  let bytes = Number.POSITIVE_INFINITY
  for (const name of names) {
    const size = Buffer.byteLength(JSON.stringify(name)) + 1
    if (bytes + size > namesBytesMax) {
      groups.push([])
      bytes = 0
    }
    groups.at(-1)!.push(name)
    bytes += size
  }
  return groups
}

/** Packs notes together. One that is too large alone goes without what rides along. */
function bodiesOf(notes: Note[]): string[] {
  const bodies: string[] = []
  let packed: string[] = []
  let bytes = 0
  const head = '{"notes":['
  const close = () => {
    if (packed.length > 0) bodies.push(`${head}${packed.join(',')}]}`)
    packed = []
    bytes = 0
  }
  const room = bodyBytesMax - head.length - 2
  const pack = (text: string) => {
    const size = Buffer.byteLength(text) + 1
    if (bytes + size > room) close()
    packed.push(text)
    bytes += size
  }
  for (const note of notes) {
    const text = JSON.stringify(note)
    if (Buffer.byteLength(text) < room) pack(text)
    else for (const each of bare(note)) pack(JSON.stringify(each))
  }
  close()
  return bodies
}

/** A process of another version may write otherwise: that is passed over. */
function parseBody(text: string): Body | null {
  try {
    const body: unknown = JSON.parse(text)
    return isBody(body) ? body : null
  } catch {
    return null
  }
}

function isBody(value: unknown): value is Body {
  if (!fits(value, {})) return false
  const { notes = [], nonce = 0 } = value
  if (typeof nonce !== 'number') return false
  return Array.isArray(notes) && notes.every(isNote)
}

function isNote(note: unknown): note is Note {
  if (!fits(note, { tenantId: 'string', sessionId: 'string', due: 'boolean' })) return false
  const { events, runs, passing, readBy = '', presence, members = [], left = [], audiences = [] } = note
  if (typeof readBy !== 'string') return false
  if (presence !== undefined && !fits(presence, { userId: 'string', state: 'string' })) return false
  if (passing !== undefined && !fits(passing, passingShape)) return false
  if (!areTexts(members) || !areTexts(left)) return false
  if (!Array.isArray(audiences) || !areTexts(audiences.filter((audience) => audience !== null))) return false
  const areEvents = Array.isArray(events) && events.every((event) => fits(event, eventShape))
  return areEvents && Array.isArray(runs) && runs.every((run) => fits(run, runShape))
}

function areTexts(value: unknown): boolean {
  return Array.isArray(value) && value.every((each) => typeof each === 'string')
}

const eventShape: Shape<Event> = {
  seq: 'number',
  type: 'string',
  turnId: 'string or null',
  position: 'number or null',
  attempt: 'number or null',
  audience: 'string or null',
  at: 'string',
  json: 'string',
}
const passingShape: Shape<Passing> = { json: 'string', notTo: 'string or null' }
const runShape: Shape<ChunkRun> = {
  turnId: 'string',
  messageId: 'string',
  position: 'number',
  audience: 'string or null',
  attempt: 'number',
  index: 'number',
  n: 'number',
  json: 'string',
}

type Shape<T> = { [key in keyof T]: string }

function fits(value: unknown, shape: Record<string, string>): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const fields = value as Record<string, unknown>
  return Object.entries(shape).every(([key, expected]) => {
    const [type, orNull] = expected.split(' or ')
    return typeof fields[key] === type || (fields[key] === null && orNull === 'null')
  })
}
