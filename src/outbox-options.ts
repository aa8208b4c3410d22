/** The options of the outbox: the app's jobs, and its webhooks. */
import { type Bounds, OptionError, onlyFields, standardSchema, whole } from './option-checks.ts'
import { type AnyJobs, jobDefaults, wrongTopic } from './outbox/jobs.ts'
import { type Webhook, type WebhookOptions, webhookDefaults, webhookOf } from './outbox/webhooks.ts'

const jobBounds = {
  timeoutMs: { min: 100, max: 3_600_000, default: jobDefaults.timeoutMs },
  attemptsMax: { min: 1, max: 1_000, default: jobDefaults.attemptsMax },
  backoffMinMs: { min: 1, max: 3_600_000, default: jobDefaults.backoffMinMs },
} as const satisfies Record<string, Bounds>

/** Throws an OptionError that says what is wrong with which job. */
export function jobsOf(jobs: AnyJobs): AnyJobs {
  for (const [topic, job] of Object.entries(jobs)) {
    const at = `jobs["${topic}"]`
    const wrong = wrongTopic(topic)
    if (wrong !== null) throw new OptionError(`${at}: ${wrong}.`)
    if (typeof job?.run !== 'function') throw new OptionError(`${at}.run: expected a function that does the job.`)
    if (job.schema !== undefined) standardSchema(`${at}.schema`, job.schema)
    onlyFields(at, job, ['run', 'schema', ...Object.keys(jobBounds)], 'outbox')
    for (const [name, each] of Object.entries(jobBounds))
      whole(`${at}.${name}`, job[name as keyof typeof jobBounds], each)
  }
  return jobs
}

const webhookBounds = {
  answerWithinMs: { min: 100, max: 60_000, default: webhookDefaults.answerWithinMs },
  attemptsMax: { min: 1, max: 1_000, default: webhookDefaults.attemptsMax },
  backoffMinMs: { min: 1, max: 3_600_000, default: webhookDefaults.backoffMinMs },
} as const satisfies Record<string, Bounds>
const webhookFields = ['url', 'secrets', 'events', 'name', 'content', 'privateAddresses', ...Object.keys(webhookBounds)]

/** As they are used. Throws an OptionError that says what is wrong with which webhook, and repeats no secret. */
export function webhooksOf(all: readonly WebhookOptions[]): Webhook[] {
  const webhooks = all.map((options, at) => {
    const where = `webhooks[${at}]`
    onlyFields(where, options, webhookFields, 'outbox')
    for (const [name, each] of Object.entries(webhookBounds)) {
      whole(`${where}.${name}`, options[name as keyof typeof webhookBounds], each)
    }
    try {
      return webhookOf(options)
    } catch (error) {
      throw new OptionError(`${where}.${(error as Error).message}`)
    }
  })
  const doubled = webhooks.find(({ name }, at) => webhooks.findIndex((each) => each.name === name) !== at)
  if (doubled) throw new OptionError(`webhooks: two of them are named ${doubled.name}. Give each a name of its own.`)
  return webhooks
}
