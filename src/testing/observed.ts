/**
 * Waiting for what a session's log holds. It is read from the database itself, with the rights of the server: it goes on
 * while the server under test is dead or its clients are cut, and what it tells of was stored.
 */
import { setTimeout as pause } from 'node:timers/promises'
import type { Chunk } from '../core/chunk.ts'
import { createFollowing, follow, type Item } from '../core/following.ts'
import { frameOf } from '../core/frames.ts'
import type { Message, Turn } from '../core/message.ts'
import { textOf } from '../core/parts.ts'
import type { Database } from '../store/database.ts'
import { readPage } from '../store/log.ts'
import { messagePair } from '../store/messages.ts'

/**
 * As a follower gets it (PROTOCOL.md, Events): an event of the log with `seq` and `data`, or chunks of a reply that is being
 * written (`type` is `chunk`), adjacent deltas joined. Of an attempt that has ended there are no chunks any more.
 */
export type SessionEvent = {
  type: string
  turnId?: string
  seq?: number
  at?: string
  data?: { message?: Message; turn?: Turn; attempt?: number; [field: string]: unknown }
  messageId?: string
  attempt?: number
  index?: number
  n?: number
  chunks?: Chunk[]
}

export type Waiting = {
  /** Defaults to `default`. */
  tenantId?: string
  /** Then it rejects, and lists what came instead. Defaults to 20,000. */
  withinMs?: number
}

/** A message whose turn has an outcome. `text`: of the reply. */
export type Outcome = { message: Message; reply: Message; turn: Turn; text: string }

export type Observer = {
  until(sessionId: string, matches: (event: SessionEvent) => boolean, ask?: Waiting): Promise<SessionEvent>
  outcome(sessionId: string, messageId: string, ask?: Waiting): Promise<Outcome>
}

const lookEveryMs = 20
const within = 20_000
const listedMax = 30
const outcomes: ReadonlySet<string> = new Set(['complete', 'failed', 'stopped'])

/** `aside`: what else is to be said of the server where nothing came. `closed` ends all waiting. */
export function observe(database: Database, closed: AbortSignal, aside: () => string): Observer {
  async function wait<T>(
    what: string,
    sessionId: string,
    { tenantId = 'default', withinMs = within }: Waiting,
    look: (fresh: SessionEvent[], tenantId: string) => Promise<T | undefined> | T | undefined,
  ): Promise<T> {
    const log = openLog(database, tenantId, sessionId)
    const untilMs = performance.now() + withinMs
    for (;;) {
      const found = await look(await log.more(), tenantId)
      if (found !== undefined) return found
      if (performance.now() > untilMs) {
        throw new Error(`${what} within ${withinMs} ms. ${listed(sessionId, log)}${aside()}`)
      }
      await pause(lookEveryMs, undefined, { signal: closed }).catch(() => {
        throw new Error(`${what} before the test server was closed. ${listed(sessionId, log)}`)
      })
    }
  }

  return {
    until: (sessionId, matches, ask = {}) =>
      wait('until: no event matched', sessionId, ask, (fresh) => fresh.find((event) => matches(event))),
    outcome: (sessionId, messageId, ask = {}) =>
      wait(`outcome: none of message ${messageId}`, sessionId, ask, async (_fresh, tenantId) => {
        const pair = await messagePair(database, tenantId, sessionId, messageId, null)
        if (pair === null || !outcomes.has(pair.turn.state) || !outcomes.has(pair.reply.status)) return undefined
        const { message, reply } = pair
        return { message, reply, turn: pair.turn as Turn, text: textOf(reply.parts) }
      }),
  }
}

type Log = { more(): Promise<SessionEvent[]>; readonly seen: readonly SessionEvent[]; exists(): boolean }

/** From its start. */
function openLog(database: Database, tenantId: string, sessionId: string): Log {
  const following = createFollowing({ epoch: '', seq: 0, open: new Map() })
  const seen: SessionEvent[] = []
  let exists = false
  return {
    seen,
    exists: () => exists,
    async more() {
      const fresh: SessionEvent[] = []
      for (let more = true; more; ) {
        const page = await readPage(database, tenantId, sessionId, following, null)
        exists = page !== null
        if (page === null) break
        for (const effect of follow(following, { type: 'page', page }, () => '')) {
          if (effect.type === 'show') fresh.push(...effect.items.map(eventOf))
        }
        more = page.more
      }
      seen.push(...fresh)
      return fresh
    },
  }
}

function eventOf(item: Item): SessionEvent {
  const { cursor: _cursor, after: _after, ...event } = JSON.parse(frameOf(item, '').json)
  return event
}

function listed(sessionId: string, { seen, exists }: Log): string {
  if (!exists()) return `There is no session ${sessionId}: has it been made, and in this tenant?`
  if (seen.length === 0) return `Nothing came in session ${sessionId}.`
  const last = seen.slice(-listedMax)
  const head = `In session ${sessionId} came${last.length < seen.length ? `, as the last ${last.length} of ${seen.length}` : ''}:`
  return [head, ...last.map(lineOf)].join('\n  ')
}

function lineOf({ type, seq, data, attempt, index, n, chunks }: SessionEvent): string {
  if (type === 'chunk') return `chunk (attempt ${attempt}, index ${index}, ${n}) ${brief(chunks)}`
  return `${seq} ${type} ${brief(data)}`
}

function brief(value: unknown): string {
  const text = JSON.stringify(value)
  return text.length > 160 ? `${text.slice(0, 160)}…` : text
}
