/** The app's own jobs: what `chat.outbox.add` has put into the outbox, given to the function of its topic. */
import { type EventSchema, schemaSentence } from '../core/app-event.ts'
import type { Json } from '../core/json.ts'
import type { Outcome } from '../core/outbox.ts'
import { type Taken, webhookTopic } from '../store/outbox.ts'

export type JobAbout = {
  /** What it was added with, or was made for it: the same at each try, so what is done twice can be told by it. */
  id: string
  key: string | null
  tenantId: string
  /** 1, 2, 3…, over the whole life of the job. */
  attempt: number
  /** Aborted when its time is over, or this process ends or has lost the job. */
  signal: AbortSignal
}

/** One topic: at least once for each payload that was added, and for payloads of one key in their order. */
export type Job<Payload = Json> = {
  /** Says what a payload may be: asked when one is added, and again before it runs. Defaults to any. See `EventSchema`. */
  schema?: EventSchema<unknown, Payload>
  /**
   * Does it. Where it throws it is tried again, later each time; `RetryLater` says when, and `PermanentFailure` that no try
   * will do better. May run twice, also at the same time where it goes on after its signal.
   */
  run(payload: Payload, about: JobAbout): unknown
  /** How long a try may take. 100–3,600,000. Defaults to 60,000. */
  timeoutMs?: number
  /** How often it is tried before it is a dead letter. 1–1,000. Defaults to 12. */
  attemptsMax?: number
  /** The longest pause before the second try; doubled each time, up to 6 hours. 1–3,600,000. Defaults to 2,000. */
  backoffMinMs?: number
}
export type AnyJob = Omit<Job<never>, 'schema'> & { schema?: EventSchema }
export type AnyJobs = { readonly [topic: string]: AnyJob }
/** By topic, with their payloads. */
export type JobsOf<Payloads> = { readonly [topic in keyof Payloads]: Job<Payloads[topic]> }

/** Thrown by a job: try it again, but not before so long. It counts as a try. */
export class RetryLater extends Error {
  override readonly name = 'RetryLater'
  readonly afterMs: number
  constructor(afterMs: number, message = 'it asked to be tried later') {
    super(message)
    this.afterMs = afterMs
  }
}

/** Thrown by a job: it is a dead letter at once. */
export class PermanentFailure extends Error {
  override readonly name = 'PermanentFailure'
}

export const jobDefaults = { timeoutMs: 60_000, attemptsMax: 12, backoffMinMs: 2_000 } as const

/** Why it can be no topic of the app's, as the end of a sentence. Null: it can. */
export function wrongTopic(topic: string): string | null {
  if (!/^[A-Za-z0-9._:~-]{1,128}$/.test(topic)) return 'expected 1 to 128 of A-Z a-z 0-9 . _ : ~ -'
  return topic.startsWith(webhookTopic)
    ? `expected a topic of your own: those of webhooks begin with ${webhookTopic}`
    : null
}

/** Rejects with nothing: what the job does wrong is the outcome of this try. */
export async function runJob(job: AnyJob, taken: Taken, signal: AbortSignal): Promise<Outcome> {
  const { payload, id, key, tenantId, attempt } = taken
  try {
    const checked = await checkedPayload(job.schema, payload)
    if ('wrong' in checked) return { outcome: 'never', why: `Its schema refuses the payload: ${checked.wrong}` }
    await job.run(checked.value as never, { id, key, tenantId, attempt, signal })
    return { outcome: 'done' }
  } catch (error) {
    return afterThrown(error)
  }
}

/** Told by their names: a second bundle of the same app has other classes. */
function afterThrown(error: unknown): Outcome {
  try {
    const why = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
    const { name, afterMs } = (error ?? {}) as { name?: unknown; afterMs?: unknown }
    if (name === 'PermanentFailure') return { outcome: 'never', why }
    if (name === 'RetryLater' && Number.isFinite(afterMs)) return { outcome: 'again', why, afterMs: afterMs as number }
    return { outcome: 'again', why }
  } catch {
    return { outcome: 'again', why: 'It threw something that has no text.' }
  }
}

/** `wrong`: a sentence that names the place and does not repeat the value. */
export async function checkedPayload(
  schema: EventSchema | undefined,
  payload: Json,
): Promise<{ value: unknown } | { wrong: string }> {
  if (schema === undefined) return { value: payload }
  const result = await schema['~standard'].validate(payload)
  return result.issues === undefined ? { value: result.value } : { wrong: schemaSentence('payload', result.issues[0]) }
}
