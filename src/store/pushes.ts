/** Notices that are due, being sent, or sent. Each statement is one function of sql/0011. */
import type { JsonObject } from '../core/json.ts'
import type { PushDevice, PushMark } from '../core/pushing.ts'
import type { Database, Statement } from './database.ts'
import { type EventJson, eventOf } from './event-rows.ts'
import type { Published, Publishing } from './publish.ts'

const pushingStatement: Statement = {
  name: 'say-pushing',
  text: `
    update holdfast.meta
       set push_grace_ms = $1, push_seen_at = now(), push_app_seen_at = case when $2 then now() else push_app_seen_at end
     where only_row`,
}

/** From now on, and for a day, for all processes: notices are due so long after what they are about. */
export async function sayPushing(
  database: Database,
  { graceMs, asksApp }: { graceMs: number; asksApp: boolean },
): Promise<void> {
  await database.query('turns', pushingStatement, [graceMs, asksApp])
}

const stillStatement: Statement = {
  name: 'still-pushing',
  text: `
    update holdfast.meta set push_seen_at = now(), push_app_seen_at = case when $1 then now() else push_app_seen_at end
     where only_row and (push_seen_at < now() - interval '10 minutes'
       or $1 and coalesce(push_app_seen_at, '-infinity') < now() - interval '10 minutes')`,
}

/** Renews it, from time to time. */
export async function stillPushing(database: Database, { asksApp }: { asksApp: boolean }): Promise<void> {
  await database.query('turns', stillStatement, [asksApp])
}

/** Which notice: of which event, and which try. */
export type PushKey = {
  tenantId: string
  sessionId: string
  about: string
  device: string
  seq: number
  tries: number
}
/** `target`: null where the app has to be asked (`due`) or nothing is to be sent. */
export type TakenPush = PushKey & {
  state: 'sending' | 'due' | 'withheld' | 'failed' | 'gone'
  userId: string
  turnId: string | null
  messageId: string | null
  event: string
  data: JsonObject | null
  target: PushDevice | null
  /** Of a device that the app keeps, and said so some time ago. */
  isStale: boolean
}

const takeStatement: Statement = {
  name: 'take-pushes',
  text: `
    select array(select holdfast.take_pushes($1, $2, $3)) as taken,
      (select ceil(extract(epoch from min(due_at) - now()) * 1000)::float8 from holdfast.pushes
        where state = 'due' and due_at > now()) as "dueInMs"`,
}

/**
 * In the order in which they were due; those about which the app has to be asked only for who can. `dueInMs`: when the next one
 * is; null: none.
 */
export async function takePushes(
  database: Database,
  limit: number,
  sendingMs: number,
  asksApp = false,
): Promise<{ taken: TakenPush[]; dueInMs: number | null }> {
  type Row = { taken: TakenPush[]; dueInMs: number | null }
  return (await database.query<Row>('turns', takeStatement, [limit, sendingMs, asksApp]))[0]!
}

const spreadStatement: Statement = {
  name: 'spread-push',
  text: 'select holdfast.spread_push($1, $2, $3, $4, $5, $6::json)',
}

/** The app has these devices of the user's: each gets a notice of its own. */
export async function spreadPush(
  database: Database,
  { tenantId, sessionId, about, device, seq }: PushKey,
  devices: readonly { device: string; target: PushDevice }[],
): Promise<void> {
  const values = [tenantId, sessionId, about, device, seq, JSON.stringify(devices)]
  await database.query('turns', spreadStatement, values)
}

const markStatement: Statement = { name: 'mark-pushes', text: 'select holdfast.mark_pushes($1::json) as held' }

/** What became of them. A device that is gone is removed. Answers those that somebody holds just now: mark them again. */
export async function markPushes<T extends PushKey & PushMark>(database: Database, marks: readonly T[]): Promise<T[]> {
  const rows = marks.map(({ tenantId, sessionId, about, device, seq, tries, state, afterMs, ticket }) => {
    return { tenantId, sessionId, about, device, seq, tries, state, afterMs, ticket }
  })
  const [answer] = await database.query<{ held: number[] }>('turns', markStatement, [JSON.stringify(rows)])
  return answer!.held.map((place) => marks[place]!)
}

/** `target`: null where the device was removed since. */
export type TakenTicket = PushKey & { userId: string; ticket: string; target: PushDevice | null; isOld: boolean }

const ticketsStatement: Statement = {
  name: 'take-tickets',
  text: 'select holdfast.take_tickets($1, $2) as ticket',
}

/** Nobody else is given these for `askingMs`. */
export async function takeTickets(database: Database, limit: number, askingMs: number): Promise<TakenTicket[]> {
  const rows = await database.query<{ ticket: TakenTicket }>('turns', ticketsStatement, [limit, askingMs])
  return rows.map(({ ticket }) => ticket)
}

const giveUpStatement: Statement = { name: 'give-up-pushes', text: 'select holdfast.give_up_pushes($1, $2) as given' }

/** Those whose sender has died: unknown, or with `resend` due again. Answers how many. */
export async function giveUpPushes(database: Database, limit: number, resend: boolean): Promise<number> {
  return (await database.query<{ given: number }>('turns', giveUpStatement, [limit, resend]))[0]!.given
}

const sweepStatement: Statement = { name: 'sweep-pushes', text: 'select holdfast.sweep_pushes($1) as swept' }

export async function sweepPushes(database: Database, limit: number): Promise<number> {
  return (await database.query<{ swept: number }>('turns', sweepStatement, [limit]))[0]!.swept
}

const notifyStatement: Statement = {
  name: 'notify',
  text: 'select holdfast.notify($1, $2, $3, $4, $5::json, $6, $7) as answer',
}

/** Publishes the event for one user, with a notice that is due later. */
export async function notify(
  database: Database,
  ask: Omit<Publishing, 'audience'> & { userId: string },
): Promise<Published | { outcome: 'not_member' }> {
  type Answer =
    | { outcome: 'published' | 'same'; event: EventJson }
    | { outcome: 'conflict' | 'not_found' | 'not_member' }
  const values = [ask.tenantId, ask.sessionId, ask.userId, ask.type, ask.data, ask.id, ask.hash]
  const answer = (await database.query<{ answer: Answer }>('turns', notifyStatement, values))[0]!.answer
  return 'event' in answer ? { ...answer, event: eventOf(answer.event) } : answer
}
