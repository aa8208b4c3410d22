/**
 * FX1: a stop at every step of a turn, from another process than the one that runs it, while that one is alive, was killed
 * there, or is paused there and goes on afterwards. Who watches is cut off when the stop is asked, and at one moment more,
 * by seed: neither stops anything, and nothing is missed.
 */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { openScene, outcomesOf, refusalsOf, type Scene, type Step, textIn } from '../faults/scene.ts'
import type { Frame, Watcher } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import type { ProviderRequest } from '../support/provider.mjs'
import { seeded } from '../support/random.ts'
import type { TestServer } from '../support/server.ts'
import { openTalk } from './scene.ts'

const program = fileURLToPath(new URL('../faults/steps-server.mjs', import.meta.url))
const runner = { program, env: { HOLDFAST_ROLES: 'runner' } }
const dice = seeded(20261124)

/**
 * Where the owner is when the stop comes, and what is stored of the reply by then: it has three steps, and the provider
 * fails in the second one of what says so. `refuses`: the write that the owner makes when it goes on afterwards is
 * refused, and it says which (after a checkpoint that was refused it is the next append or renewal).
 */
type Place = { point: string; says?: 'overloaded' | 'rejected'; shown: string; refuses?: RegExp }
const refused = { append: /"write":"append"/, end: /"write":"end"/, any: /"write"/ }
const places: Place[] = [
  { point: 'claim.send:1', shown: '' },
  { point: 'claim.answered:1', shown: '' },
  { point: 'claim.taken:1', shown: '' },
  { point: 'attempt.reply:1', shown: '' },
  { point: 'append.send:1', shown: '', refuses: refused.append },
  { point: 'append.answered:1', shown: '' },
  { point: 'checkpoint.send:1', shown: '[1:0]', refuses: refused.any },
  { point: 'checkpoint.answered:1', shown: '[1:0]' },
  { point: 'checkpoint.send:2', shown: '[1:0][1:1]', refuses: refused.any },
  { point: 'finish.send:1', shown: '[1:0][1:1][1:2]', refuses: refused.end },
  { point: 'requeue.send:1', says: 'overloaded', shown: '[1:0]', refuses: refused.end },
  { point: 'requeue.answered:1', says: 'overloaded', shown: '[1:0]' },
  { point: 'fail.send:1', says: 'rejected', shown: '[1:0]', refuses: refused.end },
]
const tooLate: Place[] = [
  { point: 'finish.answered:1', shown: '[1:0][1:1][1:2]' },
  { point: 'fail.answered:1', says: 'rejected', shown: '[1:0]' },
]

function answerTo({ body }: ProviderRequest): Step[] {
  if (body.said === 'overloaded' && body.step === 1) return [{ status: 503 }]
  if (body.said === 'rejected' && body.step === 1) return [{ status: 400 }]
  return [{ text: 'ok' }]
}

type Stopped = Place & { session: string; watcher: Watcher; outcome: Frame; refusals: string[] }

const owners: Record<string, { action: string; goOn(owner: TestServer): Promise<unknown> }> = {
  alive: { action: 'block=150', goOn: (owner) => owner.stop() },
  killed: { action: 'kill', goOn: (owner) => owner.exited },
  paused: {
    action: 'pause',
    // Past its lease by then, or not: it has lost the turn in any case.
    goOn(owner) {
      owner.signal('SIGCONT')
      return owner.stop()
    },
  },
}

test.each(Object.keys(owners))(
  'a stop at each step of a turn whose owner is %s is decisive, and what is left is told to the next turn (FX1, FP4, FN1, I2, I3, I5, I11)',
  async (name) => {
    const scene = await openScene()
    scene.provider.script(answerTo)
    await scene.start({ env: { HOLDFAST_ROLES: 'http' } })
    const all: Stopped[] = []
    for (const place of [...places, ...tooLate]) all.push(await stopAt(scene, place, owners[name]!))
    const late = all.filter(({ outcome }) => outcome.type !== 'message.stopped')
    // Who is alive may have got further, or to its end, before the stop came.
    if (name === 'alive') {
      expect(all.length - late.length).toBeGreaterThan(0)
      expect(late.length).toBeGreaterThanOrEqual(tooLate.length)
    } else {
      expect(late.map(({ point }) => point)).toEqual(tooLate.map(({ point }) => point))
      for (const { point, shown, outcome } of all) expect([point, replyIn(outcome)]).toEqual([point, shown])
    }
    if (name === 'paused') {
      const unsaid = all.filter(({ refuses, refusals }) => refuses && !refusals.some((line) => refuses.test(line)))
      expect(unsaid.map(({ point }) => point)).toEqual([])
    }
    await expectNextTurns(scene, all)
  },
  120_000,
)

/** Without what stands between two steps. */
const replyIn = (outcome: Frame) => textIn(outcome).replaceAll('\n', '')

/** When who watches is cut off once more. */
const moments = ['sent', 'there', 'answered', 'went on'] as const

async function stopAt({ ann, start }: Scene, place: Place, how: (typeof owners)[string]): Promise<Stopped> {
  const { point, says = 'hi' } = place
  const cutAt = moments[dice(moments.length)]!
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  const moment = async (name: (typeof moments)[number]) => {
    if (name === cutAt) await cutOff(watcher)
  }
  await ann.send(session, says, 'm1')
  await moment('sent')
  const owner = await start({ ...runner, points: [`${point}:${how.action}`] })
  await owner.line(/^point /)
  await moment('there')
  const cut = cutOff(watcher)
  const stand = await ann.command(session, 'm1', 'stop', { round: 1 })
  await cut
  await moment('answered')
  const outcome = await watcher.outcome('m1')
  expect(stand.reply.status).toBe(outcome.data.message.status)
  await how.goOn(owner)
  await moment('went on')
  // Asked for again it says the same, whatever its owner has tried since.
  const { turn, reply } = await ann.command(session, 'm1', 'stop', { round: 1 })
  expect(turn).toEqual(stand.turn)
  expect(reply.parts).toEqual(stand.reply.parts)
  return { ...place, session, watcher, outcome, refusals: refusalsOf(owner) }
}

/** Resolves when it is back. */
async function cutOff(watcher: Watcher): Promise<void> {
  const before = watcher.connections
  watcher.cut()
  await eventually(async () => watcher.connections > before)
}

/** Not sent before: the owner of the next case would run them. */
async function expectNextTurns({ ann, provider, start }: Scene, all: Stopped[]): Promise<void> {
  const next = ({ point }: Place) => `after ${point}`
  for (const each of all) await ann.send(each.session, next(each), 'm2')
  await start(runner)
  for (const each of all) {
    const { watcher, outcome, says = 'hi' } = each
    expect((await watcher.outcome('m2')).type).toBe('message.ai_response')
    expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
    expect(watcher.connections).toBe(3)
    await watcher.close()
    expect(watcher.problems).toEqual([])
    const { body } = provider.requests.find((request) => request.body.said === next(each))!
    expect(body.history).toEqual([...toldOf(says, outcome), `user: ${next(each)}`])
  }
}

/** What nobody had begun is withdrawn; of an attempt that wrote nothing but the beginning of its first step that is told. */
function toldOf(said: string, outcome: Frame): string[] {
  if (outcome.data.reason === 'withdrawn') return []
  const hasReply = outcome.type !== 'message.error' && outcome.data.message.parts.length > 0
  return [`user: ${said}`, ...(hasReply ? [`assistant: ${replyIn(outcome)}`] : [])]
}

test('the provider’s request is aborted within 2 s of a stop at another process, also while it is silent (R1.3)', async () => {
  const talk = await openTalk({ HOLDFAST_LEASE_MS: '5000', HOLDFAST_POLL_MS: '1000' })
  const other = await talk.start({ env: { HOLDFAST_ROLES: 'http', HOLDFAST_LEASE_MS: '5000' } })
  const { ann, session, watcher, provider } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  const sinceMs = performance.now()
  await ann.command(session, 'm1', 'stop')
  expect(await provider.requests[0]!.closed).toBe('aborted')
  expect(performance.now() - sinceMs).toBeLessThan(2_000)
  expect(other.lines.filter((line) => line.includes('error'))).toEqual([])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})
