/**
 * FX1: a stop at every step of a turn, from another process than the one that runs it, while that one is alive, was killed
 * there, or is paused there and goes on afterwards. Who watched is cut off at the same moment: that stops nothing.
 */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { openScene, outcomesOf, type Scene, textIn } from '../faults/scene.ts'
import type { Frame, Watcher } from '../support/client.ts'
import type { TestServer } from '../support/server.ts'
import { openTalk } from './scene.ts'

const program = fileURLToPath(new URL('../faults/steps-server.mjs', import.meta.url))
const runner = { program, env: { HOLDFAST_ROLES: 'runner' } }

/** Where the owner is when the stop comes, and what it has shown by then. The reply has three steps. */
const steps: [point: string, shown: string][] = [
  ['claim.taken:1', ''],
  ['attempt.reply:1', ''],
  ['append.send:1', ''],
  ['append.answered:1', ''],
  ['checkpoint.send:1', '[1:0]'],
  ['checkpoint.answered:1', '[1:0]'],
  ['checkpoint.send:2', '[1:0][1:1]'],
  ['finish.send:1', '[1:0][1:1][1:2]'],
]
const tooLate = 'finish.answered:1'

type Stopped = { point: string; session: string; watcher: Watcher; outcome: Frame }

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
  'a stop at each step of a turn whose owner is %s is decisive, and what is left is told to the next turn (FX1, I2, I3, I11)',
  async (name) => {
    const scene = await openScene()
    scene.provider.script(() => [{ text: 'ok' }])
    await scene.start({ env: { HOLDFAST_ROLES: 'http' } })
    const all: Stopped[] = []
    for (const [point] of [...steps, [tooLate]]) all.push(await stopAt(scene, point!, owners[name]!))
    const shownAt = new Map(steps)
    for (const { point, outcome } of all) {
      const told = [point, outcome.type, point === tooLate ? '' : textIn(outcome).replaceAll('\n', '')]
      if (point === tooLate) expect(told[1]).toBe('message.ai_response')
      // Who is alive may have got further, or to its end, before the stop came.
      else if (name !== 'alive') expect(told).toEqual([point, 'message.stopped', shownAt.get(point)])
    }
    await expectNextTurns(scene, all)
  },
)

async function stopAt({ ann, start }: Scene, point: string, how: (typeof owners)[string]): Promise<Stopped> {
  const owner = await start({ ...runner, points: [`${point}:${how.action}`] })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  await ann.send(session, 'hi', 'm1')
  await owner.line(/^point /)
  watcher.cut()
  const stand = await ann.command(session, 'm1', 'stop', { round: 1 })
  const outcome = await watcher.outcome('m1')
  expect(stand.reply.status).toBe(outcome.data.message.status)
  await how.goOn(owner)
  // Asked for again it says the same, whatever its owner has tried since.
  const { turn, reply } = await ann.command(session, 'm1', 'stop', { round: 1 })
  expect(turn).toEqual(stand.turn)
  expect(reply.parts).toEqual(stand.reply.parts)
  return { point, session, watcher, outcome }
}

/** Not sent before: the owner of the next case would run them. */
async function expectNextTurns({ ann, provider, start }: Scene, all: Stopped[]): Promise<void> {
  for (const { point, session } of all) await ann.send(session, `after ${point}`, 'm2')
  await start(runner)
  for (const { point, watcher, outcome } of all) {
    expect((await watcher.outcome('m2')).type).toBe('message.ai_response')
    expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
    await watcher.close()
    expect(watcher.problems).toEqual([])
    const { body } = provider.requests.find((request) => request.body.said === `after ${point}`)!
    const reply = textIn(outcome).replaceAll('\n', '')
    // An attempt that wrote nothing but the beginning of its first step is told as it stands.
    const told = outcome.data.message.parts.length > 0 ? [`assistant: ${reply}`] : []
    expect(body.history).toEqual(['user: hi', ...told, `user: after ${point}`])
  }
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
