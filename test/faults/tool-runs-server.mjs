/**
 * A server of an app whose model does what a plan says (planned-model.mjs): `node tool-runs-server.mjs` with DATABASE_URL and
 * the like. KIND: 6 or 7 (of the AI SDK; with WIRE its model is Anthropic's at OPENAI_BASE_URL), or `own` for a reply that yields its chunks and calls its tools itself. What its
 * tools do, what its app decides and what its model is asked is a line in RECORDS before it is done.
 */
import { randomUUID } from 'node:crypto'
import { appendFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { createHoldfast } from '../../dist/index.js'
import { ownReply } from './own-reply.mjs'
import { plannedModel } from './planned-model.mjs'

const { DATABASE_URL, HOLDFAST_JWT_SECRET, HOLDFAST_ROLES = 'http,runner', KIND, RECORDS } = process.env
const { HOLDFAST_LEASE_MS, HOLDFAST_POLL_MS, OPENAI_BASE_URL, WIRE } = process.env
const { streamText, convertToModelMessages, tool, stepCountIs, isStepCount, jsonSchema } = await import(
  KIND === '7' ? 'ai7' : 'ai'
)

const { createAnthropic } = await import(KIND === '7' ? 'anthropic7' : '@ai-sdk/anthropic')

const record = (what, more) => appendFileSync(RECORDS, `${JSON.stringify({ what, at: Date.now(), ...more })}\n`)

/** Each start has a name of its own, which is in what comes of it. */
const begun = ({ run, id }, { toolCallId, idempotencyKey }) => {
  const start = randomUUID()
  record('start', { run, id, callId: toolCallId, key: idempotencyKey, start })
  return start
}
const plain = async (input, options) => {
  const start = begun(input, options)
  await pause(input.ms, undefined, { signal: options.abortSignal })
  return { start }
}
const definitions = {
  look: { execute: plain, idempotent: true },
  book: { execute: plain },
  order: { execute: plain, needsApproval: true },
  watch: {
    async *execute(input, options) {
      const start = begun(input, options)
      for (const part of [1, 2]) {
        yield { start, part }
        await pause(input.ms / 2)
      }
      yield { start }
    },
  },
  broken: {
    async execute(input, options) {
      await plain(input, options)
      throw new Error('It broke.')
    },
  },
  // These two answer the same whenever they run.
  echo: {
    idempotent: true,
    async execute(input, options) {
      await plain(input, options)
      return { of: input.id }
    },
  },
  count: {
    idempotent: true,
    async *execute(input, options) {
      begun(input, options)
      yield { of: input.id, part: 1 }
      await pause(input.ms)
      yield { of: input.id }
    },
  },
  // It is told to stop, and goes on.
  deaf: {
    async execute(input, options) {
      const start = begun(input, options)
      await pause(input.ms)
      record('end', { run: input.run, start })
      return { start }
    },
  },
}

const model = WIRE
  ? createAnthropic({ baseURL: OPENAI_BASE_URL, apiKey: 'k' })('claude-stub')
  : plannedModel(KIND, (run, prompt) => record('prompt', { run, prompt }))

async function sdkReply({ messages, signal, tools }) {
  const inputSchema = jsonSchema({ type: 'object' })
  const all = Object.entries(definitions).map(([name, definition]) => {
    const described = { description: name, title: `The ${name}`, metadata: { of: name }, inputSchema, ...definition }
    return [name, tool(described)]
  })
  const result = streamText({
    model,
    messages: await convertToModelMessages(messages),
    tools: tools(Object.fromEntries(all)),
    stopWhen: (stepCountIs ?? isStepCount)(8),
    abortSignal: signal,
    maxRetries: 0,
  })
  return { toUIMessageStream: (options) => result.toUIMessageStream({ ...options, sendSources: true }) }
}

const chat = createHoldfast({
  database: DATABASE_URL,
  tokens: { secret: HOLDFAST_JWT_SECRET },
  roles: HOLDFAST_ROLES.split(','),
  leaseMs: Number(HOLDFAST_LEASE_MS),
  pollMs: Number(HOLDFAST_POLL_MS),
  limits: { sendsPerMinute: 0 },
  onUncertain({ input: { run, id, decision = 'ask' }, idempotencyKey }) {
    record('word', { run, id, key: idempotencyKey, decision })
    return decision
  },
  reply: KIND === 'own' ? ownReply(definitions) : sdkReply,
})
process.once('SIGTERM', () => chat.close().then(() => process.exit(0)))
if (HOLDFAST_ROLES === 'runner') {
  // Nobody asks it, and it may be killed at its first claim: it says that it is there before it begins.
  process.stdout.write('Holdfast  http://nowhere.invalid\n')
  await chat.start()
} else {
  const { url } = await chat.listen(Number(process.env.PORT ?? 0), '127.0.0.1')
  process.stdout.write(`Holdfast  ${url}\n`)
}
