/**
 * Many retries of one round, from two devices at two servers, while the runner that took the new round dies or is paused:
 * before it took it, at that moment, and afterwards. Every fourth answer is lost, and asked for again. The new round fails,
 * too, so that a retry which came too late could begin another one.
 */
import { expect, onTestFinished, test } from 'vitest'
import { ofType, outcomesOf } from '../faults/scene.ts'
import { type Api, apiOf, type Stand } from '../support/client.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import type { TestServer } from '../support/server.ts'
import { openTalk } from './scene.ts'

const owners: [fate: string, action: string, isOver: (owner: TestServer) => Promise<unknown>][] = [
  ['killed', 'kill', (owner) => owner.exited],
  // Stopped by then: it says so last.
  ['paused', 'pause', (owner) => owner.line(/^point claim.taken 2/)],
]

test.each(owners)(
  'twenty retries around the moment at which the round’s runner is %s make one round and one reply (FP1, FP4, FN5, I2, I3, I10)',
  async (fate, action, isOver) => {
    const talk = await openTalk({ HOLDFAST_ROLES: 'http' })
    const { session, watcher } = talk
    const there = await lossyTo((await talk.start({ env: { HOLDFAST_ROLES: 'http' } })).url)
    const devices = [await apiOf(talk.url), await apiOf(there.url)]
    const runner = { env: { HOLDFAST_ROLES: 'runner' } }
    const owner = await talk.start({ ...runner, points: [`claim.taken:2:${action}`] })
    await devices[0]!.send(session, 'please fail', 'm1')
    expect((await watcher.outcome('m1')).type).toBe('message.error')

    const asked: Promise<Stand>[] = []
    const ask = (times: number) => {
      for (let at = 0; at < times; at++) asked.push(untilAnswered(devices[asked.length % 2]!, session))
    }
    ask(7)
    await owner.line(/^point claim.taken 2/)
    ask(7)
    await isOver(owner)
    ask(6)
    await talk.start(runner)
    await watcher.until(() => outcomesOf(watcher, 'm1').length === 2)
    if (fate === 'paused') {
      owner.signal('SIGCONT')
      await owner.line(/stale write refused/)
    }
    ask(1)

    const stands = await Promise.all(asked)
    expect(there.lost()).toBeGreaterThanOrEqual(3)
    expect(new Set(stands.map(({ reply, turn }) => `${turn.round} ${reply.id}`)).size).toBe(1)
    expect(stands.at(-1)!.turn).toMatchObject({ state: 'failed', round: 2 })
    expect(ofType(watcher, 'turn.queued').map(({ data }) => data.turn.round)).toEqual([2])
    expect(outcomesOf(watcher, 'm1').map(({ type }) => type)).toEqual(['message.error', 'message.error'])
    expect(outcomesOf(watcher, 'm1')[1]!.data.message.id).toBe(stands[0]!.reply.id)
    expect(await talk.shown()).toEqual(['user: please fail', 'assistant failed:  [2/2]'])
    await watcher.close()
    expect(watcher.problems).toEqual([])
  },
)

/** As a client does that got no answer. */
async function untilAnswered(device: Api, session: string): Promise<Stand> {
  for (;;) {
    try {
      return await device.command(session, 'm1', 'retry', { round: 1 })
    } catch (error) {
      // What fetch rejects with where the connection broke; an answer that refuses is none of these.
      if (!(error instanceof TypeError)) throw error
    }
  }
}

/** The server behind a proxy that loses every fourth answer after the server has given it. */
async function lossyTo(url: string): Promise<{ url: string; lost(): number }> {
  const { hostname, port } = new URL(url)
  const proxy: TcpProxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  let answers = 0
  let lost = 0
  proxy.watch({
    onDownstream(data) {
      if (!data.toString('latin1').startsWith('HTTP/1.1') || ++answers % 4 > 0) return 'pass'
      lost++
      return 'cut'
    },
  })
  return { url: `http://${proxy.host}:${proxy.port}`, lost: () => lost }
}
