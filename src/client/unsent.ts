/**
 * Messages that no server has acknowledged. Each has its id from the keyboard on and is sent with it, again and again,
 * until it is acknowledged, refused, taken back or too old: so it is stored once, however often it was sent, from however
 * many tabs, before and after a crash.
 *
 *   waiting ──sent──▶ acknowledged (gone from here)      failed ──retry, edit──▶ waiting
 *      ├── refused, too old, the server could not for long ──▶ failed: kept, for its writer to decide
 *      └── taken back: at once where no try of it can have arrived; else once the server says that it has stopped it
 *
 * Of a session one is sent at a time, in the order in which they were written, by whichever tab holds the lock. A connection
 * that fails costs no try: it waits for the network.
 */
import type { Part } from '../core/chunk.ts'
import { idPattern } from '../core/ids.ts'
import type { Json, JsonObject } from '../core/json.ts'
import type { Message, Turn } from '../core/message.ts'
import type { Locks } from './locks.ts'
import type { Storage } from './storage.ts'
import { type Tabs, tabsHere } from './tabs.ts'
import { backoffMs, type ErrorKind, HoldfastError, type Wire } from './wire.ts'

export type WhenBusy = 'queue' | 'interrupt' | 'steer' | 'reject'

export type Unsent = {
  sessionId: string
  /** The message's, for good. */
  id: string
  parts: Part[]
  metadata: JsonObject | null
  whenBusy: WhenBusy
  /** Its session may not be there yet, and is made before it. */
  makes: { title: string | null } | null
  writtenAt: string
  /** `failed`: it is not tried again by itself, and `failure` says why. */
  state: 'waiting' | 'failed'
  failure: { kind: ErrorKind | 'expired'; code: string; message: string } | null
  /** A try had no answer: whether it arrived nobody can tell. */
  mayBeStored: boolean
  /** Answers that the server could not, in a row. */
  tries: number
}
/** What is shown of one, beside what is kept. */
export type UnsentView = Unsent & {
  isSending: boolean
  /** Waits for so long because of the server, as a time: 429, or it could not. */
  retryAt: string | null
}

/** As the server answered when it took the message. */
export type Taken = { message: Message; reply: { id: string; status: string }; turn: Turn; cursor: string }

export type NewMessage = Pick<Unsent, 'sessionId' | 'parts'> &
  Partial<Pick<Unsent, 'id' | 'metadata' | 'whenBusy' | 'makes'>>

export type UnsentList = {
  /** In the order in which they were written. The same array as long as nothing changed. */
  list(): readonly UnsentView[]
  subscribe(hear: () => void): () => void
  /** Calls `hear` when the server has taken one, before it leaves the list. Answers what ends that. */
  onTaken(hear: (taken: Taken) => void): () => void
  /** Resolves when it is kept on this device. `taken`: when the server has it; rejects when it has failed or was taken back. */
  add(message: NewMessage): Promise<{ id: string; taken: Promise<Taken> }>
  /** False: it is not here any more. One that is being sent is waited for; one that may be stored is replaced by one with a new id. */
  edit(id: string, parts: Part[]): Promise<boolean>
  /** What was written, to be given back. Null as above. */
  withdraw(id: string): Promise<Part[] | null>
  /** One that has failed is tried again, all that wait are tried at once. */
  retry(id?: string): void
  /** The server is reached: what waits for the network is tried at once, what the server asked to wait is not. */
  reached(): void
  /** What an earlier page, or a tab that was closed, has left is sent, too. Whoever subscribes or adds begins it as well. */
  start(): void
  /** Nothing of it is kept, and nothing more is sent: the user has logged out. */
  wipe(): Promise<void>
  close(): void
}

/** The list has changed; the server has taken one; the user has logged out. */
export type TabWord = 'changed' | Taken | 'out'

export type UnsentOptions = {
  wire: Wire
  storage: Storage
  locks: Locks
  /** Of the user: lists of two users on one device know nothing of each other. */
  name: string
  newId: () => string
  /** Older ones fail, for their writer to decide. */
  expiresMs: number
  /** Where the server takes no more of this user's at the moment: it waits, and is sent by itself. Else it fails. */
  waitsWhenLimited: boolean
  /** In another tab: nothing of this user is to be shown or kept here any more. */
  onLoggedOut(): void
  /** The storage cannot be written: messages live as long as this page. */
  onStorageFailed(error: unknown): void
}

/** Answers in a row that the server cannot: some minutes. */
const triesMax = 12
/** After so long an answer is not waited for. */
const answerMs = 30_000

type Entry = Unsent & { key: string; isWithdrawn?: boolean }
type Promised = { taken?: Promise<Taken>; resolve(taken: Taken): void; reject(error: Error): void }

export function createUnsent(options: UnsentOptions): UnsentList {
  const { wire, storage, locks, newId } = options
  const prefix = `unsent:${options.name}:`
  const closing = new AbortController()
  const hearers = new Set<() => void>()
  const takenHearers = new Set<(taken: Taken) => void>()
  const promises = new Map<string, Promised>()
  const sending = new Set<string>()
  const retryAt = new Map<string, number>()
  const loops = new Set<string>()
  /** Sessions to be looked at again, by whoever is looking at them just now. */
  const again = new Set<string>()
  /** What could not be written lives here alone. */
  const unkept = new Set<string>()
  /** True: it waits for the network. */
  const sleepers = new Map<AbortController, boolean>()
  let entries: readonly Entry[] = []
  let views: readonly UnsentView[] = []
  let written = 0
  /** The user has logged out. */
  let isWiped = false

  const show = (next: readonly Entry[]) => {
    entries = next
    views = next
      .filter(({ isWithdrawn }) => isWithdrawn !== true)
      .map(({ key: _key, isWithdrawn: _is, ...entry }) => ({
        ...entry,
        isSending: sending.has(entry.id),
        retryAt: timeOf(retryAt.get(entry.id)),
      }))
    for (const hear of hearers) hear()
  }
  /** One after the other, so that what is read holds all that was written before. */
  let writing: Promise<unknown> = Promise.resolve()
  const write = async (act: () => Promise<void>) => {
    const done = writing.then(act).then(
      () => true,
      (error: unknown) => {
        options.onStorageFailed(error)
        return false
      },
    )
    writing = done
    return await done
  }
  const put = async (entry: Entry) => {
    if (isWiped) return
    const others = entries.filter(({ key }) => key !== entry.key)
    show([...others, entry].sort((a, b) => (a.key < b.key ? -1 : 1)))
    const { key, ...kept } = entry
    if (await write(() => storage.set(key, JSON.stringify(kept)))) unkept.delete(key)
    else unkept.add(key)
    tabs?.tell('changed')
  }
  const drop = async ({ key }: Entry) => {
    show(entries.filter((each) => each.key !== key))
    unkept.delete(key)
    await write(() => storage.remove(key))
    tabs?.tell('changed')
  }
  const read = async () => {
    let kept: [string, string][] | null = null
    for (let before: unknown; before !== writing; ) {
      before = writing
      await before
      kept = await storage.entries(prefix).catch((error: unknown) => {
        options.onStorageFailed(error)
        return null
      })
    }
    // Without a storage what is here is all there is.
    if (kept === null || isWiped) return
    const mine = entries.filter(({ key }) => unkept.has(key))
    const theirs = kept.flatMap(entryOf).filter(({ key }) => !unkept.has(key))
    const there = [...theirs, ...mine].sort((a, b) => (a.key < b.key ? -1 : 1))
    const gone = entries.filter(({ key }) => !there.some((each) => each.key === key))
    show(there)
    for (const { id } of gone) settleElsewhere(id)
  }
  /** Where it was sent, that tab says so; its word may be on its way. */
  const settleElsewhere = (id: string) => {
    if (sending.has(id) || !promises.has(id)) return
    setTimeout(() => {
      promises.get(id)?.reject(new HoldfastError('It was taken back in another tab.', 'elsewhere', 0, false))
      promises.delete(id)
    }, elsewhereMs)
  }
  let tabs: Tabs<TabWord> | null = null
  const start = () => {
    if (tabs !== null) return
    tabs = tabsHere<TabWord>(`holdfast 1 ${prefix}`, (word) => {
      if (word === 'out') {
        endWiped()
        options.onLoggedOut()
      } else if (word !== 'changed') wasTaken(word)
      void read().then(sendAll)
    })
    void read().then(sendAll)
  }
  const wasTaken = (taken: Taken) => {
    const { id } = taken.message
    for (const hear of takenHearers) hear(taken)
    promises.get(id)?.resolve(taken)
    promises.delete(id)
  }

  const sleep = async (ms: number, forNetwork: boolean) => {
    const control = new AbortController()
    sleepers.set(control, forNetwork)
    await wire.pause(ms, control.signal).catch(() => undefined)
    sleepers.delete(control)
  }
  const wake = (onlyForNetwork = false) => {
    for (const [control, forNetwork] of sleepers) if (forNetwork || !onlyForNetwork) control.abort()
  }

  /** Nothing more is sent or written: the user has logged out, here or in another tab. */
  const endWiped = () => {
    isWiped = true
    closing.abort()
    wake()
    show([])
    for (const { reject } of promises.values()) reject(loggedOut())
    promises.clear()
  }
  const sendAll = () => {
    for (const { sessionId, state } of entries) if (state === 'waiting') void sendSession(sessionId)
  }
  const lockOf = (id: string) => `holdfast:${prefix}${id}`

  async function sendSession(sessionId: string): Promise<void> {
    again.add(sessionId)
    if (loops.has(sessionId)) return
    loops.add(sessionId)
    try {
      for (let failures = 0; !closing.signal.aborted; ) {
        again.delete(sessionId)
        const waitMs = await locks.hold(lockOf(`of ${sessionId}`), () => sendNext(sessionId))
        if (waitMs === null && again.has(sessionId)) continue
        if (waitMs === null) return
        if (waitMs === 0) failures = 0
        else if (waitMs === networkMs) await sleep(backoffMs(++failures), true)
        else await sleep(waitMs, false)
      }
    } finally {
      loops.delete(sessionId)
    }
  }

  /** Answers after how long the next one is tried. Null: there is none. */
  async function sendNext(sessionId: string): Promise<number | null> {
    await read()
    const next = entries.find((each) => each.sessionId === sessionId && each.state === 'waiting')
    if (next === undefined || closing.signal.aborted) return null
    return await locks.hold(lockOf(next.id), async () => {
      await read()
      const now = entries.find(({ key }) => key === next.key)
      return now?.state === 'waiting' ? await sendOne(now) : 0
    })
  }

  async function sendOne(entry: Entry): Promise<number | null> {
    const { id, isWithdrawn } = entry
    if (isWithdrawn !== true && Date.now() - Date.parse(entry.writtenAt) > options.expiresMs) {
      await fail(entry, { kind: 'expired', code: 'expired', message: tooOld })
      return 0
    }
    sending.add(id)
    retryAt.delete(id)
    // First of all: this page may not live to hear the answer.
    await put({ ...entry, mayBeStored: true })
    try {
      const taken = await (isWithdrawn === true ? stop(entry) : send(entry))
      if (taken === null) return networkMs
      if (taken !== 'stopped') {
        tabs?.tell(taken)
        wasTaken(taken)
      }
      await drop(entry)
      return 0
    } catch (error) {
      if (closing.signal.aborted) return null
      if (!(error instanceof HoldfastError)) throw error
      return await refused(entry, error)
    } finally {
      sending.delete(id)
      show(entries)
    }
  }

  async function refused(entry: Entry, error: HoldfastError): Promise<number> {
    // Of an answer with a code it is known that nothing was stored by this try; of those before it, it is not.
    const { mayBeStored } = entry
    if (entry.isWithdrawn === true && !error.retryable) {
      await drop(entry)
      return 0
    }
    if (error.kind === 'network' || error.kind === 'auth') {
      await put({ ...entry, mayBeStored: mayBeStored || error.kind === 'network' })
      return networkMs
    }
    const isService = error.kind === 'service'
    const tries = isService ? entry.tries + 1 : entry.tries
    const tried = { ...entry, tries, mayBeStored: mayBeStored || isService }
    const waitMs = Math.max(error.retryAfterMs || 1, backoffMs(tries))
    // What would be too old by then fails now, with the server's reason: a budget may be renewed next month.
    const isOver =
      tries >= triesMax || waitMs > options.expiresMs || (error.kind === 'rate_limit' && !options.waitsWhenLimited)
    // Who chose that it be refused where a reply is written is told so.
    // What was taken back is asked for until the server has heard it: its writer has it back already.
    if (!error.retryable || error.code === 'busy' || (isOver && entry.isWithdrawn !== true)) {
      await fail(tried, error)
      return 0
    }
    retryAt.set(entry.id, Date.now() + waitMs)
    await put(tried)
    return waitMs
  }

  async function fail(entry: Entry, error: HoldfastError | Expired): Promise<void> {
    const { kind, code, message } = error
    await put({ ...entry, state: 'failed', failure: { kind, code, message } })
    promises.get(entry.id)?.reject(error instanceof HoldfastError ? error : new HoldfastError(message, code, 0, false))
    promises.delete(entry.id)
  }

  /** Null: no answer came. */
  async function send({ sessionId, id, parts, metadata, whenBusy, makes, writtenAt }: Entry): Promise<Taken | null> {
    if (makes !== null) {
      const title = makes.title === null ? {} : { title: makes.title }
      if ((await asked('/v1/sessions', { id: sessionId, ...title })) === null) return null
    }
    // What runs by now is not what it was to interrupt.
    const isFresh = Date.now() - Date.parse(writtenAt) < freshMs
    const busy = isFresh || whenBusy === 'reject' ? whenBusy : 'queue'
    const body = {
      id,
      parts,
      ...(metadata === null ? {} : { metadata }),
      ...(busy === 'queue' ? {} : { whenBusy: busy }),
    }
    return (await asked(`${pathOf(sessionId)}/messages`, body)) as Taken | null
  }

  async function stop({ sessionId, id }: Entry): Promise<'stopped' | null> {
    const stopped = await asked(`${pathOf(sessionId)}/messages/${encodeURIComponent(id)}/stop`, {})
    return stopped === null ? null : 'stopped'
  }

  /** Null: no answer came, or not in time. */
  const asked = async (path: string, body: object): Promise<Json> =>
    (await wire.askOnce(path, { method: 'POST', body }, closing.signal, answerMs)) ?? null

  const find = (id: string) => entries.find((each) => each.id === id && each.isWithdrawn !== true)
  /** When what sends it has had its answer, or none: it does not change under way. */
  const change = async <T>(id: string, act: (entry: Entry) => Promise<T>): Promise<T | null> => {
    const entry = find(id)
    if (entry === undefined) return null
    const done = await locks.hold(lockOf(id), async () => {
      await read()
      const now = find(id)
      return now === undefined ? null : await act(now)
    })
    wake()
    sendAll()
    return done
  }
  const takeAway = async (entry: Entry) => {
    promises.get(entry.id)?.reject(new HoldfastError('It was taken back.', 'withdrawn', 0, false))
    promises.delete(entry.id)
    if (entry.mayBeStored) await put({ ...entry, state: 'waiting', isWithdrawn: true })
    else await drop(entry)
  }
  /** After all that are there, also where the clock was set back. */
  const nextKey = () => {
    const last = Number(entries.at(-1)?.key.slice(prefix.length).slice(0, 15) ?? 0)
    const ms = String(Math.max(Date.now(), last + 1)).padStart(15, '0')
    return `${prefix}${ms}-${String(written++).padStart(6, '0')}-${newId()}`
  }

  return {
    list: () => views,
    subscribe(hear) {
      start()
      hearers.add(hear)
      return () => hearers.delete(hear)
    },
    onTaken(hear) {
      takenHearers.add(hear)
      return () => takenHearers.delete(hear)
    },
    async add({ sessionId, parts, id = newId(), metadata = null, whenBusy = 'queue', makes = null }) {
      start()
      if (isWiped) throw loggedOut()
      const there = promises.get(id)?.taken
      if (there !== undefined) return { id, taken: there }
      if (!idPattern.test(id)) throw unfit('The id of a message has a character that is not allowed.')
      if (!parts.some(saysSomething)) throw unfit('There is nothing in this message.')
      const writtenAt = new Date().toISOString()
      const about = { sessionId, id, parts, metadata, whenBusy, makes, writtenAt }
      const taken = new Promise<Taken>((resolve, reject) => promises.set(id, { resolve, reject }))
      promises.get(id)!.taken = taken
      taken.catch(() => undefined)
      const entry = { ...about, key: nextKey(), failure: null, mayBeStored: false, tries: 0 }
      await put({ ...entry, state: 'waiting' })
      // It is shown with the reason, for its writer to change.
      if (JSON.stringify({ parts, metadata }).length > charactersMax) {
        await fail({ ...entry, state: 'failed' }, unfit('This message is too long.', 'too_large', 413))
      } else void sendSession(sessionId)
      return { id, taken }
    },
    edit: async (id, parts) =>
      (await change(id, async (entry) => {
        const writtenAt = new Date().toISOString()
        const again = { ...entry, parts, state: 'waiting' as const, failure: null, tries: 0, writtenAt }
        if (!entry.mayBeStored) await put(again)
        else {
          await put({ ...again, id: newId(), key: `${entry.key}~`, mayBeStored: false })
          await takeAway(entry)
        }
        return true
      })) ?? false,
    withdraw: (id) =>
      change(id, async (entry) => {
        await takeAway(entry)
        return entry.parts
      }),
    retry(id) {
      const entry = id === undefined ? undefined : find(id)
      if (entry?.state !== 'failed') {
        wake()
        sendAll()
        return
      }
      const writtenAt = new Date().toISOString()
      void put({ ...entry, state: 'waiting', failure: null, tries: 0, writtenAt }).then(() =>
        sendSession(entry.sessionId),
      )
    },
    reached: () => wake(true),
    start,
    async wipe() {
      endWiped()
      await writing
      tabs?.tell('out')
      // Also what an earlier page has left and this one has not read yet.
      for (const [key] of await storage.entries(prefix)) await storage.remove(key)
    },
    close() {
      closing.abort()
      wake()
      tabs?.close()
    },
  }
}

const unfit = (message: string, code = 'invalid_request', status = 400) =>
  new HoldfastError(message, code, status, false)
/** As the server's bodies are bounded, with room for what goes with it. */
const charactersMax = 250_000
const saysSomething = ({ type, text }: Part) => type !== 'text' || String(text).trim() !== ''
const loggedOut = () => new HoldfastError('The user has logged out.', 'withdrawn', 0, false)

type Expired = { kind: 'expired'; code: string; message: string }

const networkMs = -1
const elsewhereMs = 1_000
/** So long what was running when it was written may be what is meant by it. */
const freshMs = 60_000
const tooOld = 'It could not be sent for too long. Send it again if it still matters.'

const pathOf = (sessionId: string) => `/v1/sessions/${encodeURIComponent(sessionId)}`
const timeOf = (ms: number | undefined) => (ms === undefined ? null : new Date(ms).toISOString())

function entryOf([key, text]: [string, string]): Entry[] {
  try {
    return [{ ...(JSON.parse(text) as Unsent), key }]
  } catch {
    // Written by nobody of us.
    return []
  }
}
