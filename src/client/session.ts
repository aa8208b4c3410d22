/**
 * One session as a client shows it: what the server has stored, followed live, and after it what this device has not been
 * able to send yet. What was shown last is kept on the device, and shown at once the next time.
 *
 *   loading ──kept here──▶ kept ──snapshot──▶ ready ──(a frame does not lead on)──▶ ready, from a new snapshot
 *      └────────────── not there, or not for this user ──▶ missing
 */
import type { Part } from '../core/chunk.ts'
import type { Json, JsonObject } from '../core/json.ts'
import type { Message, Session, Turn } from '../core/message.ts'
import { createView, type LogFrame, type Member, type Shown, type Snapshot, type View } from '../core/view.ts'
import { withQuestion } from './asked.ts'
import type { Feed, PassingFrame } from './feed.ts'
import { optimistic, type ShownMessage, withDelivery } from './shown-message.ts'
import { createStore, type Readable } from './store.ts'
import type { MessageOf } from './typed.ts'
import type { Taken, UnsentList, UnsentView, WhenBusy } from './unsent.ts'
import { HoldfastError, type Wire } from './wire.ts'

export type SessionState<Chat = unknown> = {
  /** `kept`: as it was shown on this device the last time, until the server's answer is here. */
  phase: 'loading' | 'kept' | 'ready' | 'missing'
  /** What was stored up to now is shown. */
  isLive: boolean
  session: Session | null
  members: readonly Member[]
  messages: readonly ShownMessage<Chat>[]
  /** Those without an outcome: running, waiting, queued. */
  turns: readonly Turn[]
  /** A reply is owed: the dots. */
  isBusy: boolean
  hasEarlier: boolean
  /** Members who are writing just now. */
  typing: readonly string[]
  /** Why nothing can be loaded, where a person can do something about it. */
  error: HoldfastError | null
}

/** Before anything is known, and what a server renders. */
export const notLoaded: SessionState<never> = {
  phase: 'loading',
  isLive: false,
  session: null,
  members: [],
  messages: [],
  turns: [],
  isBusy: false,
  hasEarlier: false,
  typing: [],
  error: null,
}

/** As a command is answered: how its message stands now. */
export type Stand<Chat = unknown> = {
  message: MessageOf<Chat>
  reply: MessageOf<Chat> | null
  turn: Turn | null
  cursor: string
  withdrawn?: boolean
}

/** `Chat` is `typeof chat` of the server: its metadata and tools. */
export type SessionHandle<Chat = unknown> = Readable<SessionState<Chat>> & {
  readonly id: string
  /** Each frame as it comes live, for what an app does with its own events. Answers what ends that. */
  onFrame(hear: (frame: LogFrame | PassingFrame) => void): () => void
  /**
   * After each time that the session was loaded from the server: what was stored between the last frame and that no frame
   * tells. Answers what ends that.
   */
  onLoaded(hear: () => void): () => void
  /** Shown at once. Resolves with the user's message when the server has it; rejects when it has failed, or was taken back. */
  send(
    message: { text: string } | { parts: Part[] },
    options?: SendOptions,
  ): Promise<Omit<Taken, 'message'> & { message: MessageOf<Chat> }>
  /** A message that failed, or whose reply did: the server is asked for another try. */
  retry(messageId: string): Promise<Stand<Chat> | null>
  /**
   * The reply to this message, or all that are being written here. Before it was sent: taken back. With `round` a later one
   * is left alone; it defaults to the one that is shown. Answers how each stands on the server now.
   */
  stop(messageId?: string, round?: number): Promise<readonly Stand<Chat>[]>
  /** With parts also what is not text is said anew. */
  edit(messageId: string, message: string | EditedMessage, newId?: string): Promise<Stand<Chat> | null>
  regenerate(messageId: string, newId?: string): Promise<Stand<Chat>>
  select(messageId: string): Promise<Stand<Chat>>
  approve(
    approvalId: string,
    answer: { approved: boolean; reason?: string; turnId?: string; attempt?: number },
  ): Promise<Stand<Chat>>
  answerTool(
    toolCallId: string,
    answer: ({ output: Json } | { errorText: string }) & { turnId?: string; attempt?: number },
  ): Promise<Stand<Chat>>
  rename(title: string | null, signal?: AbortSignal): Promise<Session>
  /** All that is shown now was seen: said once for what is new, and to the other members. */
  markRead(): Promise<void>
  /** Told to the other members; say it every 3 s while it is so. */
  setTyping(isTyping: boolean): Promise<void>
  /** The page of messages before those shown. False: there is none. */
  loadEarlier(): Promise<boolean>
}
type Drawn = { shown: Shown | null; rest: readonly (Taken | UnsentView)[]; messages: readonly ShownMessage[] }
export type EditedMessage = { parts: Part[]; metadata?: JsonObject }
export type SendOptions = { id?: string; metadata?: JsonObject; whenBusy?: WhenBusy }

/** What was shown last, of each session of this user. */
export type ShownStorage = {
  get(id: string): Promise<string | null>
  set(id: string, text: string): void
  remove(id: string): Promise<void>
  wipe(): Promise<void>
}

export type SessionOptions = {
  wire: Wire
  feed: Feed
  unsent: UnsentList
  shownIn: ShownStorage
  newId(): string
  /** Calls `act` soon, at most so often as is worth drawing. */
  soon(act: () => void): void
  /** The client is closed: nothing more is loaded or kept. */
  closed: AbortSignal
}

/** A server that could not for a minute. */
const awayMs = 10_000
const refusedMs = 60_000
/** Messages that are kept on the device, of each session. */
const keptMax = 50

export function createSession(id: string, options: SessionOptions): SessionHandle {
  const { wire, feed, unsent, shownIn, newId, closed } = options
  const path = `/v1/sessions/${encodeURIComponent(id)}`
  /** The first who hears has it loaded and followed; when nobody hears any more, it is left. */
  const state = createStore<SessionState>(notLoaded, () => {
    listed = []
    const deaf = unsent.subscribe(listChanged)
    // What was so when it was left is not so any more.
    isLive = false
    error = null
    draw()
    isFollowed = true
    // What was loaded once is there, whatever waits to be sent.
    if (view !== null) void begin()
    listChanged()
    return () => {
      deaf()
      isFollowed = false
      leave?.()
      leave = null
      isLive = false
      // Whoever looks before it is followed again sees that it is not.
      draw()
    }
  })
  const typing = new Map<string, ReturnType<typeof setTimeout>>()
  const frameHearers = new Set<(frame: LogFrame | PassingFrame) => void>()
  const loadHearers = new Set<() => void>()
  let view: View | null = null
  let phase: SessionState['phase'] = 'loading'
  let isLive = false
  let error: HoldfastError | null = null
  let isDrawing = false
  let drawn: Drawn | null = null
  /** Acknowledged, and told by no frame yet. */
  const acknowledged = new Map<string, Taken>()
  unsent.onTaken((taken) => {
    if (taken.message.sessionId !== id) return
    if (isFollowed || drawn !== null) acknowledged.set(taken.message.id, taken)
    // It has made its session.
    if (view === null && isFollowed) void begin()
    changed()
  })
  let isFollowed = false
  let leave: (() => void) | null = null

  const messagesOf = (shown: Shown | null): readonly ShownMessage[] => {
    const waiting = unsent.list().filter(({ sessionId }) => sessionId === id)
    if (shown !== null) {
      for (const [taken, { message, cursor }] of acknowledged) {
        if (isPast(shown.cursor, cursor, message.seq)) acknowledged.delete(taken)
      }
    }
    // Tabs hear of each other's later than of their own.
    const between = [...acknowledged.values()].sort((a, b) => a.message.seq - b.message.seq)
    const rest = [...between, ...waiting]
    if (drawn !== null && drawn.shown === shown && sameList(drawn.rest, rest)) return drawn.messages
    const stored = [...(shown?.messages ?? []), ...between.map(({ message }) => message)]
    const messages = [
      ...stored.map((message, at) => withDelivery(message, shown, at)),
      ...waiting.filter((each) => !stored.some((message) => message.id === each.id)).map(optimistic),
    ]
    drawn = { shown, rest, messages }
    return messages
  }
  const turnsNow = (): readonly Turn[] => {
    const told = view?.now().turns ?? []
    const between = [...acknowledged.values()].flatMap(({ turn }) => (isOver(turn) ? [] : [turn]))
    return between.length === 0 ? told : [...told, ...between]
  }
  const draw = () => {
    isDrawing = false
    const shown = view?.now() ?? null
    const { session = null, members = [], before = null } = shown ?? {}
    const messages = messagesOf(shown)
    const turns = turnsNow()
    const isBusy = turns.some((turn) => turn.state !== 'waiting')
    const rest = { isBusy, hasEarlier: before !== null, typing: [...typing.keys()], error }
    state.set({ phase, isLive, session, members, messages, turns, ...rest })
  }
  const changed = () => {
    if (isDrawing) return
    isDrawing = true
    options.soon(draw)
  }

  const take = (frame: LogFrame) => {
    if (view?.now().cursor !== frame.after) return void begin()
    for (const hear of frameHearers) hear(frame)
    // Heard, and not shown yet: what is shown from now on the snapshot tells.
    if (!view.take(frame)) return void begin()
    if (outcomes.test(frame.type)) void keep()
    changed()
  }
  const keep = async () => {
    const shown = view?.now()
    // Half a reply cannot be gone on with.
    if (shown === undefined || shown.turns.length > 0 || closed.aborted) return
    const messages = shown.messages.slice(-keptMax)
    // Where a page ends that is cut here nobody knows; the snapshot will tell.
    const before = messages.length < shown.messages.length ? null : shown.before
    const kept: Snapshot = { ...shown, messages, before, open: [] }
    shownIn.set(id, JSON.stringify(kept))
  }

  /** Loads, and follows from what was loaded, until it is left. */
  async function begin(): Promise<void> {
    leave?.()
    if (closed.aborted) return
    const control = new AbortController()
    let isWoken = false
    let undo = wire.onWake(() => {
      isWoken = true
    })
    leave = () => {
      control.abort()
      undo()
    }
    const { signal } = control
    isLive = false
    try {
      if (view === null) await recall(signal)
      const snapshot = (await wire.askSurely(path, {}, signal)) as unknown as Snapshot
      const next = createView(snapshot)
      await withEarlier(next, signal)
      if (signal.aborted) return
      view = next
      phase = 'ready'
      error = null
      changed()
      void keep()
      for (const hear of loadHearers) hear()
      undo()
      undo = feed.follow(id, snapshot.cursor, {
        frame: take,
        passing,
        live(is) {
          isLive = is
          changed()
        },
        stale: () => void begin(),
        refused,
      })
      // What was heard meanwhile may have ended it.
      if (signal.aborted) undo()
    } catch (caught) {
      if (signal.aborted || closed.aborted) return
      if (!(caught instanceof HoldfastError)) throw caught
      refused(caught)
      // Somebody may sign in, make it, or mend the server: it is asked again when the app says so (it may have said it
      // before the answer came), and now and then.
      if (!isWoken) await wire.pause(caught.retryable ? awayMs : refusedMs, signal).catch(() => undefined)
      if (!signal.aborted) await begin()
    }
  }

  const passing = (frame: PassingFrame) => {
    if (frame.type === 'receipt') view?.takeReceipt(frame.data as { userId: string; delivered: number; read: number })
    if (frame.type === 'typing') takeTyping(frame.data as { userId: string; isTyping: boolean; lastsMs: number })
    for (const hear of frameHearers) hear(frame)
    changed()
  }
  /** Ends by itself: who types may be gone. */
  const takeTyping = ({ userId, isTyping, lastsMs }: { userId: string; isTyping: boolean; lastsMs: number }) => {
    clearTimeout(typing.get(userId))
    typing.delete(userId)
    if (!isTyping) return
    const end = () => {
      typing.delete(userId)
      changed()
    }
    typing.set(userId, setTimeout(end, lastsMs))
  }

  const refused = (caught: HoldfastError) => {
    isLive = false
    error = caught
    if (caught.code === 'not_found' || caught.code === 'gone') {
      view = null
      phase = 'missing'
      void shownIn.remove(id).catch(() => undefined)
    }
    changed()
  }

  const recall = async (signal: AbortSignal) => {
    const kept = await shownIn.get(id)
    if (kept === null || signal.aborted || view !== null) return
    try {
      view = createView(JSON.parse(kept) as Snapshot)
      phase = 'kept'
      changed()
    } catch {
      // Written by nobody of us.
    }
  }

  /** As far back as was shown before: what has changed there no frame tells. */
  const withEarlier = async (next: View, signal: AbortSignal) => {
    for (;;) {
      // A page of those before may come meanwhile.
      const oldest = phase === 'ready' ? view?.now().messages[0]?.id : undefined
      const { messages, before } = next.now()
      if (oldest === undefined || before === null || messages.some((message) => message.id === oldest)) return
      next.takeEarlier(await pageBefore(before, signal))
    }
  }
  const pageBefore = async (before: string, signal?: AbortSignal) =>
    (await wire.askSurely(`${path}/messages?before=${encodeURIComponent(before)}`, {}, signal)) as unknown as {
      data: Message[]
      before: string | null
    }

  const ask = async (sub: string, body: object): Promise<unknown> =>
    await wire.askSurely(`${path}${sub}`, { method: 'POST', body }, undefined)
  const command = async (messageId: string, name: string, body: object) =>
    (await ask(`/messages/${encodeURIComponent(messageId)}/${name}`, body)) as Stand
  const answer = async (what: string, askedId: string, body: object) =>
    (await ask(`/${what}/${encodeURIComponent(askedId)}`, body)) as Stand
  /** A message here makes it, before which it may not be there. One that has failed makes nothing. */
  const isToBeMade = () =>
    unsent.list().some(({ sessionId, makes, state: sent }) => sessionId === id && makes !== null && sent === 'waiting')
  let listed: readonly string[] = []
  const listChanged = () => {
    const now = unsent.list().flatMap((each) => (each.sessionId === id ? [each.id] : []))
    const isGone = listed.some((messageId) => !now.includes(messageId) && !acknowledged.has(messageId))
    listed = now
    // Another tab may have sent it, and its session is there by now.
    if (isFollowed && view === null && (isGone || leave === null) && !isToBeMade()) void begin()
    changed()
  }
  const isUnsent = (messageId: string) => unsent.list().some((each) => each.id === messageId)

  let readAt: string | undefined
  return {
    id,
    getSnapshot: state.getSnapshot,
    subscribe: state.subscribe,
    onFrame(hear) {
      frameHearers.add(hear)
      return () => {
        frameHearers.delete(hear)
      }
    },
    onLoaded(hear) {
      loadHearers.add(hear)
      return () => {
        loadHearers.delete(hear)
      }
    },
    async send(message, { id: messageId, metadata, whenBusy } = {}) {
      const parts = 'parts' in message ? message.parts : [{ type: 'text', text: message.text }]
      // It may be the first of a session that is made with it. One that is there already is left as it is.
      const makes = view === null ? { title: null } : null
      const { taken } = await unsent.add({
        sessionId: id,
        parts,
        id: messageId ?? newId(),
        metadata,
        whenBusy,
        makes,
      })
      return taken
    },
    async retry(messageId) {
      if (isUnsent(messageId)) {
        unsent.retry(messageId)
        return null
      }
      const round = view?.now().messages.find(({ repliesTo }) => repliesTo === messageId)?.round ?? undefined
      return await command(messageId, 'retry', round === undefined ? {} : { round })
    },
    async stop(messageId, round) {
      const turns = turnsNow()
      const all = messageId === undefined ? stoppedIn(turns) : [messageId]
      const stands: Stand[] = []
      for (const each of all) {
        // What the log has told is there, also where the answer to it was lost.
        const isTold = view?.now().messages.some(({ id: told }) => told === each) === true
        if (!isTold && isUnsent(each) && (await unsent.withdraw(each)) !== null) continue
        const of = round ?? turns.find((turn) => turn.messageId === each)?.round
        stands.push(await command(each, 'stop', of === undefined ? {} : { round: of }))
      }
      return stands
    },
    async edit(messageId, message, editId = newId()) {
      const edited = typeof message === 'string' ? { text: message } : message
      const parts = 'parts' in edited ? edited.parts : [{ type: 'text', text: edited.text }]
      if (isUnsent(messageId) && (await unsent.edit(messageId, parts))) return null
      return await command(messageId, 'edit', { id: editId, ...edited })
    },
    regenerate: (messageId, replyId = newId()) => command(messageId, 'regenerate', { id: replyId }),
    select: (messageId) => command(messageId, 'select', {}),
    approve: (approvalId, body) => answer('approvals', approvalId, withQuestion(view, approvalId, body)),
    answerTool: (toolCallId, body) => answer('tool-results', toolCallId, withQuestion(view, toolCallId, body)),
    rename: async (title, signal) =>
      (await wire.askSurely(path, { method: 'PATCH', body: { title } }, signal)) as unknown as Session,
    async markRead() {
      const cursor = view?.now().cursor
      if (cursor === undefined || phase !== 'ready' || cursor === readAt) return
      await ask('/receipts', { read: cursor })
      readAt = cursor
    },
    async setTyping(isTyping) {
      // What nobody hears is not said again.
      await wire.ask(`${path}/typing`, { method: 'POST', body: { isTyping } }, undefined)
    },
    async loadEarlier() {
      for (;;) {
        const of = view
        const before = of?.now().before
        if (!of || !before) return false
        const page = await pageBefore(before)
        // A snapshot that was loaded meanwhile has its own place: it is gone on from there.
        if (view !== of) continue
        if (of.now().before === before) of.takeEarlier(page)
        changed()
        return page.data.length > 0
      }
    },
  }
}

const outcomes = /^(message\.(ai_response|error|stopped|said|changed)|branch\.selected|session\.updated)$/

/** What is being written or waits; where that is nothing, the one that stands first in line, or is tried again. */
function stoppedIn(turns: readonly Turn[]): string[] {
  const begun = turns.filter(({ state }) => state !== 'queued')
  return (begun.length > 0 ? begun : turns.slice(0, 1)).map(({ messageId }) => messageId)
}
const isOver = ({ state }: Turn) => state !== 'queued' && state !== 'running' && state !== 'waiting'

/** Whether what is shown holds all up to this `seq` of the log of `other`, or is of another log: `epoch.seq…` (src/core/cursor.ts). */
function isPast(cursor: string, other: string, seq: number): boolean {
  const [epoch, at] = cursor.split('.')
  return epoch !== other.split('.')[0] || Number(at) >= seq
}

function sameList(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((each, at) => each === b[at])
}
