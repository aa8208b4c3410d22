/**
 * Messages that no server has acknowledged. Each has its id from the start and is sent with that id, again and again,
 * until it is acknowledged or refused; so it is stored once, however often it was sent, from however many tabs. They
 * lie in the browser's storage: a reload in between goes on with them.
 */
import { createSession, isUnknown, type Problem, sendMessage, type WhenBusy } from './session.ts'
import { newId, recall, recallAll, remember } from './storage.ts'
import { backOffMs, sleeper } from './waits.ts'

export type Unsent = {
  sessionId: string
  id: string
  text: string
  /** `sent`: acknowledged, and soon to be seen in the session's log. */
  state: 'sending' | 'sent'
  sentAt: string
  /** Its session may not be there yet, and is made with it. */
  isFirst: boolean
  whenBusy: WhenBusy
  /** The server takes no more of this user's at the moment: when it is sent again, in ms. */
  cooldown?: number
  /** A request with it is under way. */
  isAsking?: boolean
  /** It could not be sent so far. */
  isHeld?: boolean
  /** A try had no answer: whether it arrived nobody can tell. */
  mayBeStored?: boolean
}
export type Refusal = { sessionId: string; text: string; problem: Problem }

const prefix = 'unsent:'
let list: readonly Unsent[] = read()
const hearers = new Set<() => void>()
const refusalHearers = new Set<(refusal: Refusal) => void>()
const sending = new Set<string>()
const waits = sleeper()

/** So long what was running when it was written may be what is meant by it. */
const freshMs = 60_000

/** Each message lies under a key of its own: tabs know nothing of each other's lists, and must not write over them. */
function read(): Unsent[] {
  return recallAll(prefix)
    .flatMap(parsed)
    .sort((a, b) => (a.sentAt < b.sentAt ? -1 : 1))
}

function parsed(text: string): Unsent[] {
  try {
    // What runs by now is not what it was to interrupt.
    return [{ ...(JSON.parse(text) as Unsent), whenBusy: 'queue', isAsking: false, isHeld: true, cooldown: undefined }]
  } catch {
    // Written by nobody of us.
    return []
  }
}

function set(next: readonly Unsent[]): void {
  list = next
  for (const hear of hearers) hear()
}

export const unsent = {
  list: () => list,
  subscribe(hear: () => void): () => void {
    hearers.add(hear)
    return () => hearers.delete(hear)
  },
  /** The text of a message that the server will not take, to be given back to whoever wrote it. */
  onRefused(hear: (refusal: Refusal) => void): () => void {
    refusalHearers.add(hear)
    return () => refusalHearers.delete(hear)
  },
  add(sessionId: string, text: string, isFirst: boolean, whenBusy: WhenBusy): void {
    const sentAt = new Date().toISOString()
    const message: Unsent = { sessionId, id: newId(), text, state: 'sending', sentAt, isFirst, whenBusy }
    set([...list, message])
    keep(message)
    void sendAll(sessionId)
  },
  /** Its writer wants it back. Null: it is under way, or the server has it. */
  takeBack(id: string): Unsent | null {
    const there = list.find((each) => each.id === id)
    if (there?.state !== 'sending' || there.isAsking) return null
    // Another tab may have tried, too.
    const [kept = there] = [recall(prefix + id) ?? ''].flatMap(parsed)
    forget(id)
    return { ...there, mayBeStored: kept.mayBeStored ?? false }
  },
  /** Its message has been seen in the log. */
  seen(ids: ReadonlySet<string>): void {
    const seen = list.filter(({ id }) => ids.has(id))
    for (const { id } of seen) remember(prefix + id, null)
    if (seen.length > 0) set(list.filter((each) => !seen.includes(each)))
  },
  /** Goes on with what other pages left, an earlier one or a tab that was closed, and at once where the network is back. */
  resume(): void {
    const known = new Set(list.map(({ id }) => id))
    const left = read().filter(({ id }) => !known.has(id))
    if (left.length > 0) set([...list, ...left])
    waits.wake()
    for (const { sessionId } of list) void sendAll(sessionId)
  },
}

const backoff = { first: 400, most: 8_000 }
const titleLength = 60

/** One at a time for each session, so that messages arrive in the order in which they were written. */
async function sendAll(sessionId: string): Promise<void> {
  if (sending.has(sessionId)) return
  sending.add(sessionId)
  for (let next = firstOf(sessionId), tries = 0; next !== undefined; next = firstOf(sessionId)) {
    const problem = await sendOne(next)
    if (problem === null) tries = 0
    else if (problem.retryable) await cool(next, problem, problem.retryAfterMs ?? backOffMs(backoff, tries++))
    else refuse(next, problem)
  }
  sending.delete(sessionId)
}

const firstOf = (sessionId: string) => list.find((each) => each.sessionId === sessionId && each.state === 'sending')

async function cool({ id }: Unsent, { code }: Problem, ms: number): Promise<void> {
  change(id, { cooldown: code === 'rate_limited' ? Date.now() + ms : undefined, isHeld: true })
  await waits.sleep(ms)
}

function change(id: string, to: Partial<Unsent>): void {
  set(list.map((each) => (each.id === id ? { ...each, ...to } : each)))
}

function keep(message: Unsent): void {
  remember(prefix + message.id, JSON.stringify(message))
}

function forget(id: string): void {
  remember(prefix + id, null)
  set(list.filter((each) => each.id !== id))
}

/** Another tab has sent it, or has given it back. */
window.addEventListener('storage', ({ key, newValue }) => {
  const mine = list.find(({ id }) => key === `holdfast:${prefix}${id}`)
  if (newValue === null && mine?.state === 'sending' && !mine.isAsking) forget(mine.id)
})

/** Null: acknowledged. A session that is made again is the one that is there. */
async function sendOne(message: Unsent): Promise<Problem | null> {
  const { id, sessionId, text, isFirst, whenBusy, sentAt, mayBeStored } = message
  change(id, { isAsking: true })
  const created = isFirst ? await createSession(sessionId, titleOf(text)) : null
  if (created?.ok === false) {
    change(id, { isAsking: false })
    return created.problem
  }
  // First of all: the page may not live to hear the answer.
  keep({ ...message, mayBeStored: true })
  const isFresh = Date.now() - Date.parse(sentAt) < freshMs
  const answer = await sendMessage(sessionId, id, text, isFresh ? whenBusy : 'queue')
  if (answer.ok) {
    remember(prefix + id, null)
    change(id, { state: 'sent', isAsking: false, cooldown: undefined })
    return null
  }
  const told = { isAsking: false, mayBeStored: mayBeStored || isUnknown(answer.problem) }
  change(id, told)
  // Unless it was seen in the log meanwhile.
  if (list.some((each) => each.id === id)) keep({ ...message, ...told })
  return answer.problem
}

function titleOf(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim()
  return line.length > titleLength ? `${line.slice(0, titleLength).replace(/[\uD800-\uDBFF]$/, '')}…` : line
}

function refuse({ sessionId, id, text }: Unsent, problem: Problem): void {
  forget(id)
  for (const hear of refusalHearers) hear({ sessionId, text, problem })
}
