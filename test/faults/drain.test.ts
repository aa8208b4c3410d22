/** FP6: SIGTERM. Followers are sent elsewhere, replies end in time or are handed over, and the process ends well. */
import { expect, test } from 'vitest'
import { gate, ofType, openScene, pieces, type Scene, slowly, textIn } from './scene.ts'

const whole = (request: number) => pieces(request, 60).join('')
/** So long that neither a lease that runs out nor a poll can be what makes things go on. */
const patient = { HOLDFAST_LEASE_MS: '30000', HOLDFAST_POLL_MS: '10000' }

/** The first request waits in its middle for `goOn`. The server runs it, another stands by, and a reader follows. */
async function inTheMiddle(drainMs: number, env: Record<string, string>) {
  const scene: Scene = await openScene()
  const middle = gate()
  scene.provider.script(({ index }) => {
    const texts = pieces(index, 60)
    const wait = index === 0 ? [{ wait: middle.passed }] : []
    return [...slowly(texts.slice(0, 30)), ...wait, ...slowly(texts.slice(30))]
  })
  const going = await scene.start({ env: { ...env, HOLDFAST_DRAIN_MS: String(drainMs) } })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  const { reply } = await scene.ann.send(session, 'hi', 'm1')
  await watcher.until(() => watcher.text(reply.id)?.endsWith(' r0.29 ') ?? false)
  const staying = await scene.start({ env })
  return { ...scene, going, staying, session, watcher, replyId: reply.id, goOn: middle.open }
}

test('on SIGTERM followers go elsewhere and a reply that ends in time ends where it ran (FP6, I5)', async () => {
  const { going, watcher, replyId, goOn, provider } = await inTheMiddle(20_000, patient)
  going.signal('SIGTERM')
  await watcher.until(({ type, afterMs }) => type === 'reconnect' && afterMs > 0)
  // At the other server by now: what still is written comes from there.
  await watcher.until((frame) => frame.type === 'caught-up' && ofType(watcher, 'caught-up').length > 1)
  goOn()
  expect(textIn(await watcher.outcome('m1'))).toBe(whole(0))
  expect(watcher.text(replyId)).toBe(whole(0))
  expect(await going.exited).toBe(0)
  expect(provider.requests).toHaveLength(1)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('on SIGTERM a reply that takes longer is handed over and goes on at once (FP6, I2, I7)', async () => {
  const { going, watcher, replyId, provider } = await inTheMiddle(200, patient)
  going.signal('SIGTERM')
  const ended = await watcher.until(({ type }) => type === 'attempt.ended')
  expect(ended.data).toMatchObject({ attempt: 1, reason: 'handover' })
  const started = await watcher.until(({ type, data }) => type === 'attempt.started' && data.attempt === 2)
  // A second is the goal; the rest is for a busy machine. A poll would take up to 10.
  expect(Date.parse(started.at) - Date.parse(ended.at)).toBeLessThan(3_000)
  expect(textIn(await watcher.outcome('m1'))).toBe(whole(1))
  expect(watcher.text(replyId)).toBe(whole(1))
  expect(await going.exited).toBe(0)
  expect(await provider.requests[0]!.closed).toBe('aborted')
  expect(going.lines.filter((line) => /failed|refused/.test(line))).toEqual([])
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a second signal ends at once, and the reply is taken over (FP6, I9)', async () => {
  const { going, watcher, replyId } = await inTheMiddle(600_000, {})
  going.signal('SIGTERM')
  await watcher.until(({ type }) => type === 'reconnect')
  going.signal('SIGTERM')
  expect(await going.exited).toBe(1)
  expect(textIn(await watcher.outcome('m1'))).toBe(whole(1))
  expect(watcher.text(replyId)).toBe(whole(1))
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('new requests during a drain are told to come back elsewhere', async () => {
  const { going, watcher, ann, session, goOn } = await inTheMiddle(20_000, patient)
  going.signal('SIGTERM')
  await watcher.until(({ type }) => type === 'reconnect')
  goOn()
  // The other server takes what is sent meanwhile.
  const { turn } = await ann.send(session, 'and', 'm2')
  expect(turn.state).toBe('queued')
  expect((await watcher.outcome('m2')).type).toBe('message.ai_response')
  expect(await going.exited).toBe(0)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})
