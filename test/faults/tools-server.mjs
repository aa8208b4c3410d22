/**
 * A server of an app whose model has tools, on the AI SDK of AI_MAJOR (6 or 7): `node tools-server.mjs` with DATABASE_URL and
 * the like. Each run of a tool is a request to TOOLS_URL, which answers its result. `look` is idempotent, `book` is not, and
 * UNCERTAIN says what the app decides of it. `order` asks a person, and `where` is run by a client. STEPS_MAX and TAKEOVER are
 * its options.
 */
import { createHoldfast } from '../../dist/index.js'

const { DATABASE_URL, HOLDFAST_JWT_SECRET, OPENAI_BASE_URL, HOLDFAST_ROLES = 'http,runner' } = process.env
const { HOLDFAST_LEASE_MS, HOLDFAST_POLL_MS, AI_MAJOR = '6', TOOLS_URL, UNCERTAIN, STEPS_MAX, TAKEOVER } = process.env
const { streamText, convertToModelMessages, tool, stepCountIs, isStepCount, jsonSchema } = await import(
  AI_MAJOR === '6' ? 'ai' : 'ai7'
)
const { createOpenAICompatible } = await import(AI_MAJOR === '6' ? '@ai-sdk/openai-compatible' : 'openai-compatible7')

const provider = createOpenAICompatible({ name: 'stub', baseURL: OPENAI_BASE_URL })

const inputSchema = jsonSchema({ type: 'object', properties: { place: { type: 'string' } } })
const asking = (name, more = {}) =>
  tool({
    description: name,
    inputSchema,
    ...more,
    async execute(input, { toolCallId, idempotencyKey, abortSignal }) {
      const asked = await fetch(TOOLS_URL, {
        method: 'POST',
        body: JSON.stringify({ name, toolCallId, idempotencyKey, input }),
        signal: abortSignal,
      })
      if (!asked.ok) throw new Error(`${name} is broken`)
      return await asked.json()
    },
  })

const chat = createHoldfast({
  database: DATABASE_URL,
  tokens: { secret: HOLDFAST_JWT_SECRET },
  roles: HOLDFAST_ROLES.split(','),
  leaseMs: Number(HOLDFAST_LEASE_MS ?? 1_000),
  pollMs: Number(HOLDFAST_POLL_MS ?? 200),
  stepsMax: Number(STEPS_MAX ?? 20),
  takeover: TAKEOVER ?? 'continue',
  ...(UNCERTAIN && { onUncertain: () => JSON.parse(UNCERTAIN) }),
  async reply({ messages, signal, tools }) {
    return streamText({
      model: provider('m'),
      messages: await convertToModelMessages(messages),
      tools: tools({
        look: { ...asking('look'), idempotent: true },
        book: asking('book'),
        order: asking('order', { needsApproval: true }),
        where: tool({ description: 'where', inputSchema }),
      }),
      stopWhen: (stepCountIs ?? isStepCount)(5),
      abortSignal: signal,
      maxRetries: 0,
    })
  },
})
process.once('SIGTERM', () => chat.close().then(() => process.exit(0)))
const { url } = await chat.listen(Number(process.env.PORT ?? 0), '127.0.0.1')
process.stdout.write(`Holdfast  ${url}\n`)
