/**
 * Notices on devices: what they are, and the machine of the process that sends them. It decides when to take what is due and
 * what becomes of a notice after the service's answer; whether one is sent at all is decided by the statement that takes it
 * (`take_pushes`, sql/0011).
 */
import type { JsonObject } from './json.ts'
import { cleanText } from './plain-json.ts'

/** Where a device is reached. `locale`: the language that it was registered with. */
export type PushDevice =
  | { kind: 'expo'; token: string; locale?: string }
  | { kind: 'web'; subscription: PushSubscriptionKeys; locale?: string }
export type PushKind = PushDevice['kind']
/** A browser's `PushSubscription`, as its `toJSON` says it. */
export type PushSubscriptionKeys = { endpoint: string; keys: { p256dh: string; auth: string } }

/** `tag`: of at most 32 characters; a notice takes the place of one with the same tag on its device. */
export type Notice = { to: PushDevice; tag: string; title: string; body: string; data: JsonObject }

/** What a service made of a notice. `why` is for operators, and holds no content and no token. */
export type Delivery =
  /** `ticket`: by which it is asked later what became of it. */
  | { outcome: 'sent'; ticket?: string }
  /** There is no such device any more. */
  | { outcome: 'gone'; why: string }
  /** It did not take it, and may take it later. */
  | { outcome: 'again'; afterMs?: number; why: string }
  /** It will never take it. */
  | { outcome: 'refused'; why: string }
  /** Nobody knows whether it took it. */
  | { outcome: 'unknown'; why: string }

/** What hands notices to one service: `expoPush` of `holdfast/expo`, `webPush` of `holdfast/web-push`. */
export type PushSender = {
  kind: PushKind
  /** Answers for each notice, in their order, within 15 seconds: one that is not answered by then is `unknown`, by itself. */
  send(notices: readonly Notice[]): Promise<Delivery[]>
  /** Why such a device can never be reached, as a sentence for who registers it. Null: it may be. */
  refusalOf(device: PushDevice): string | null
  /** What became of these tickets, by ticket, as far as it is known by now. */
  receipts?(tickets: readonly string[]): Promise<ReadonlyMap<string, Delivery>>
  /** What a page subscribes with: `applicationServerKey`. */
  publicKey?: string
}

export type PushText = { title: string; body: string }

/** By event, in English. The last one is for events of the app's that have no text of their own. */
const defaultTexts: Readonly<Record<string, PushText>> = {
  'message.ai_response': { title: 'Your reply is ready', body: 'The assistant has answered.' },
  'message.error': { title: 'The reply failed', body: 'Open the chat to try again.' },
  'turn.waiting': { title: 'Your answer is needed', body: 'The assistant cannot go on without it.' },
  '': { title: 'Something new', body: 'Open the chat to see it.' },
}
const titleCharactersMax = 60
const bodyCharactersMax = 180

/** Bounded, so that with the largest data of an event a notice stays below the 4 KB that services take. */
export function textOf(event: string, own: Partial<PushText> | null | undefined): PushText {
  const usual = defaultTexts[event] ?? defaultTexts['']!
  return {
    title: cut(own?.title ?? usual.title, titleCharactersMax),
    body: cut(own?.body ?? usual.body, bodyCharactersMax),
  }
}

function cut(text: string, max: number): string {
  const characters = [...cleanText(text).replaceAll(/\p{Cc}+/gu, ' ')]
  return characters.length <= max ? characters.join('') : `${characters.slice(0, max - 1).join('')}…`
}

/** One batch takes no more: as many as Expo takes in one request. */
export const takeMax = 100
const batchesMax = 4
const takeAgainMs = 1_000

export type Pushing = { readonly pollMs: number; taking: boolean; batches: number; isFull: boolean; draining: boolean }
export type PushInput =
  | { type: 'start' }
  | { type: 'timer' }
  /** `dueInMs`: when the next one is due; null: none is. */
  | { type: 'taken'; count: number; dueInMs: number | null }
  | { type: 'take-failed' }
  | { type: 'batch-ended' }
  | { type: 'drain' }
export type PushEffect =
  | { type: 'take'; limit: number }
  /** Replaces the timer set before. */
  | { type: 'timer'; ms: number }

export function createPushing(pollMs: number): Pushing {
  return { pollMs, taking: false, batches: 0, isFull: false, draining: false }
}

/** Changes `state` and says what is to be done. */
export function pushingNext(state: Pushing, input: PushInput): PushEffect[] {
  switch (input.type) {
    case 'start':
    case 'timer':
      return take(state)
    case 'taken': {
      state.taking = false
      if (input.count > 0) state.batches++
      if (input.count >= takeMax) return take(state)
      return timer(state, Math.min(state.pollMs, input.dueInMs ?? state.pollMs))
    }
    case 'take-failed':
      state.taking = false
      return timer(state, Math.max(takeAgainMs, state.pollMs))
    case 'batch-ended': {
      state.batches--
      const wasFull = state.isFull
      state.isFull = false
      return wasFull ? take(state) : []
    }
    case 'drain':
      state.draining = true
      return []
  }
}

function take(state: Pushing): PushEffect[] {
  if (state.draining || state.taking) return []
  // The end of a batch takes more.
  state.isFull = state.batches >= batchesMax
  if (state.isFull) return []
  state.taking = true
  return [{ type: 'take', limit: takeMax }]
}

function timer(state: Pushing, ms: number): PushEffect[] {
  return state.draining ? [] : [{ type: 'timer', ms }]
}

/** As `pushes` stores it. `afterMs`: when somebody has to look at it again. */
export type PushMark = {
  state: 'sent' | 'due' | 'failed' | 'gone' | 'unknown'
  afterMs: number
  ticket: string | null
}

/** Of what may have been taken each time: it would come again and again. */
const triesMax = 8
const backoffMinMs = 1_000
const backoffMaxMs = 300_000
/** A service that wants to be left alone for longer is asked all the same: nobody wants to hear of it a day later. */
const retryAfterMaxMs = 3_600_000
/** Rows of which nothing is to be done are kept for so long. */
const keptMs = 2 * 86_400_000

type PushPolicy = { resend: boolean; receiptsAfterMs: number }

/** What follows from a service's answer to the `tries`-th try. `random`: 0 ≤ x < 1. */
export function afterDelivery(delivery: Delivery, tries: number, policy: PushPolicy, random: number): PushMark {
  switch (delivery.outcome) {
    case 'sent': {
      const { ticket = null } = delivery
      return { state: 'sent', afterMs: ticket === null ? keptMs : policy.receiptsAfterMs, ticket }
    }
    case 'gone':
      return { state: 'gone', afterMs: keptMs, ticket: null }
    case 'refused':
      return { state: 'failed', afterMs: keptMs, ticket: null }
    case 'unknown':
      return policy.resend && tries < triesMax
        ? { state: 'due', afterMs: backoff(tries, random), ticket: null }
        : { state: 'unknown', afterMs: keptMs, ticket: null }
    // For a day, whoever counts: `take_pushes` ends it.
    case 'again': {
      const wanted = Math.min(retryAfterMaxMs, Math.max(0, Math.ceil(delivery.afterMs ?? 0)))
      return { state: 'due', afterMs: wanted + backoff(tries, random), ticket: null }
    }
  }
}

/** Doubled each time; at least half of it, so that no bad luck makes it a burst. */
function backoff(tries: number, random: number): number {
  return Math.round((0.5 + random / 2) * Math.min(backoffMaxMs, backoffMinMs * 2 ** (tries - 1)))
}

/** What follows from asking about a ticket. Absent: the service does not know yet, and is asked again for a day. */
export function afterReceipt(
  delivery: Delivery | undefined,
  ask: { ticket: string; tries: number; isOld: boolean },
  policy: PushPolicy,
  random: number,
): PushMark {
  if (delivery !== undefined) return afterDelivery(delivery, ask.tries, policy, random)
  if (ask.isOld) return { state: 'sent', afterMs: keptMs, ticket: null }
  return { state: 'sent', afterMs: Math.max(policy.receiptsAfterMs, backoffMinMs), ticket: ask.ticket }
}
