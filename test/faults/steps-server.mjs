/**
 * A server of an app whose replies have three steps and say which attempt ended them: `node steps-server.mjs` with
 * DATABASE_URL and the like. Each step says which attempt wrote it and asks the provider (OPENAI_BASE_URL) for its text,
 * so that a test sees what is run; a status of the provider that is no success fails the attempt as that status does.
 * Between two steps it takes what was sent to steer it.
 */
import { createHoldfast, ReplyError } from '../../dist/index.js'

const { DATABASE_URL, HOLDFAST_JWT_SECRET, OPENAI_BASE_URL, HOLDFAST_ROLES = 'http,runner' } = process.env
const { HOLDFAST_LEASE_MS, HOLDFAST_POLL_MS, HOLDFAST_DRAIN_MS, HOLDFAST_TAKEOVER } = process.env
const steps = 3

const chat = createHoldfast({
  database: DATABASE_URL,
  tokens: { secret: HOLDFAST_JWT_SECRET },
  roles: HOLDFAST_ROLES.split(','),
  leaseMs: Number(HOLDFAST_LEASE_MS ?? 1_000),
  pollMs: Number(HOLDFAST_POLL_MS ?? 200),
  drainMs: Number(HOLDFAST_DRAIN_MS ?? 10_000),
  takeover: HOLDFAST_TAKEOVER ?? 'continue',
  onReply: (_, { attempt }) => ({ endedBy: attempt }),
  async *reply({ message, messages, attempt, stepsDone, replyId, signal, usage, steering }) {
    const said = ({ role, parts }) => `${role}: ${parts.map(({ text }) => text ?? '').join('')}`
    const history = messages.map(said)
    yield { type: 'start', messageId: replyId }
    for (let step = stepsDone; step < steps; step++) {
      if (step > 0) history.push(...(await steering()).map(said))
      yield { type: 'start-step' }
      yield { type: 'text-start', id: `t${step}` }
      const asked = await fetch(`${OPENAI_BASE_URL}/chat/completions`, {
        method: 'POST',
        body: JSON.stringify({ attempt, step, said: message.parts[0].text, history }),
        signal,
      })
      await asked.text()
      if (!asked.ok) throw new ReplyError(asked.status === 503 ? 'provider_overloaded' : 'provider_rejected', 'as told')
      usage({ provider: 'p', model: 'm', inputTokens: 3, outputTokens: 5 })
      yield { type: 'text-delta', id: `t${step}`, delta: `[${attempt}:${step}]` }
      yield { type: 'text-end', id: `t${step}` }
      yield { type: 'finish-step' }
    }
    yield { type: 'finish', finishReason: 'stop' }
  },
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
