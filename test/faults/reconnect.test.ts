/** Readers that come and go while a reply is written: by cursor, by long poll, late, from a snapshot, cut at random. */
import { expect, test } from 'vitest'
import { createFold } from '../../src/core/fold.ts'
import { textOf } from '../../src/core/parts.ts'
import { apiOf, type Frame } from '../support/client.ts'
import { startProxy } from '../support/proxy.ts'
import { seeded } from '../support/random.ts'
import { openScene, pieces, type Scene, type Step, slowly, textIn } from './scene.ts'

/** A reply whose pieces are written one by one, when the test says so. */
function stepwise(texts: string[]): { steps: Step[]; next: () => void } {
  const opens: (() => void)[] = []
  const steps = texts.flatMap((text): Step[] => {
    const wait = new Promise<void>((resolve) => {
      opens.push(resolve)
    })
    return [{ wait }, { text }]
  })
  return { steps, next: () => opens.shift()?.() }
}

async function begin({ ann, provider, start }: Scene, steps: Step[]) {
  provider.script(steps)
  await start()
  const session = await ann.createSession()
  const { reply } = await ann.send(session, 'hi', 'm1')
  return { session, replyId: reply.id }
}

test('a reader that reconnects by its cursor before each chunk assembles the same text (I5, I7)', async () => {
  const scene = await openScene()
  const texts = pieces(0, 60)
  const { steps, next } = stepwise(texts)
  const { session, replyId } = await begin(scene, steps)
  const watcher = scene.ann.watch(session)
  for (const [at, text] of texts.entries()) {
    const connections = watcher.connections
    watcher.cut()
    await watcher.until(() => watcher.connections > connections)
    next()
    await watcher.until(() => watcher.text(replyId)?.endsWith(text) ?? false)
    expect(watcher.text(replyId)).toBe(texts.slice(0, at + 1).join(''))
  }
  const outcome = await watcher.outcome('m1')
  expect(textIn(outcome)).toBe(texts.join(''))
  expect(watcher.text(replyId)).toBe(texts.join(''))
  expect(watcher.connections).toBeGreaterThan(texts.length)
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test('a reader of the long poll alone gets every frame once, in order (I5, I7)', async () => {
  const scene = await openScene()
  const texts = pieces(0, 40)
  const { steps, next } = stepwise(texts)
  const { session, replyId } = await begin(scene, steps)
  const frames: Frame[] = []
  const fold = createFold()
  let cursor: string | undefined
  let polls = 0
  while (!frames.some(({ type }) => type === 'message.ai_response')) {
    next()
    const answer = await scene.ann.poll(session, { cursor, wait: 10 })
    polls++
    for (const frame of answer.frames) {
      if (cursor !== undefined) expect(frame.after).toBe(cursor)
      cursor = frame.cursor
      frames.push(frame)
      if (frame.type === 'chunk') for (const chunk of frame.chunks) expect(fold.push(chunk)).toBe(true)
    }
    cursor = answer.cursor
  }
  expect(polls).toBeGreaterThan(texts.length / 2)
  // Of the last chunks the outcome may stand in their place, where both were stored between two polls (I5).
  expect(texts.join('').startsWith(textOf(fold.parts()))).toBe(true)
  expect(frames.filter(({ seq }) => seq !== undefined).map(({ seq }) => seq)).toEqual([1, 2, 3])
  expect(textIn(frames.at(-1)!)).toBe(texts.join(''))
  expect(frames.at(-1)!.data.message.id).toBe(replyId)
})

test('readers that come late, from the start, from now and from a snapshot, end with the same text (I5, I7)', async () => {
  const scene = await openScene()
  const texts = pieces(0, 30)
  const { steps, next } = stepwise(texts)
  const { session, replyId } = await begin(scene, steps)
  const early = scene.ann.watch(session)
  for (let at = 0; at < 15; at++) next()
  await early.until(() => early.text(replyId)?.endsWith(texts[14]!) ?? false)

  const fromStart = scene.ann.watch(session)
  const fromNow = scene.ann.watch(session, 'now')
  const snapshot = await scene.ann.snapshot(session)
  const fromSnapshot = scene.ann.watch(session, snapshot.cursor)
  const late = [fromStart, fromNow, fromSnapshot]
  await Promise.all(late.map((each) => each.until(({ type }) => type === 'caught-up')))
  for (let at = 15; at < texts.length; at++) next()
  const outcomes = await Promise.all([early, ...late].map((each) => each.outcome('m1')))
  for (const outcome of outcomes) expect(textIn(outcome)).toBe(texts.join(''))
  expect(fromStart.text(replyId)).toBe(texts.join(''))

  const [open] = snapshot.open
  expect(open).toMatchObject({ replyId, attempt: 1 })
  const fold = createFold()
  for (const chunk of open!.chunks) fold.push(chunk)
  expect(textOf(fold.parts())).toBe(texts.slice(0, 15).join(''))
  for (const frame of fromSnapshot.frames) {
    if (frame.type === 'chunk') for (const chunk of frame.chunks) expect(fold.push(chunk)).toBe(true)
  }
  expect(textOf(fold.parts())).toBe(texts.join(''))
  const chunksOf = (frames: Frame[]) => frames.filter(({ type }) => type === 'chunk').map(({ index, n }) => [index, n])
  expect(chunksOf(fromNow.frames)).toEqual(chunksOf(fromSnapshot.frames))
  await Promise.all([early, ...late].map((each) => each.close()))
  expect([early, ...late].flatMap(({ problems }) => problems)).toEqual([])
})

test('connections cut at 100 random bytes of long replies leave no gap and no double (FN1, I5, I7)', async () => {
  const scene = await openScene()
  const random = seeded(20261122)
  scene.provider.script(({ index }) => slowly(pieces(index, 900)))
  const server = await scene.start()
  const proxy = await startProxy({ target: { host: '127.0.0.1', port: Number(new URL(server.url).port) } })
  const cutAnn = await apiOf(`http://127.0.0.1:${proxy.port}`)
  const session = await scene.ann.createSession()
  const watcher = cutAnn.watch(session)
  const cutOnce = () => proxy.cutAfter('down', 1 + random(3_000))
  let cuts = 0
  let replies = 0
  cutOnce()
  // The next cut is set when the last one has happened, until there were enough of them.
  const seen = setInterval(() => {
    if (proxy.counts.cut === cuts || cuts >= 100) return
    cuts = proxy.counts.cut
    if (cuts < 100) cutOnce()
  }, 1)
  const texts: string[] = []
  while (cuts < 100) {
    const id = `m${++replies}`
    const { reply } = await scene.ann.send(session, 'again', id)
    const outcome = await watcher.outcome(id)
    const whole = pieces(replies - 1, 900).join('')
    expect(textIn(outcome)).toBe(whole)
    expect(watcher.text(reply.id)).toBe(whole)
    texts.push(whole)
  }
  clearInterval(seen)
  await watcher.close()
  await proxy.close()
  expect(cuts).toBeGreaterThanOrEqual(100)
  expect(watcher.connections).toBeGreaterThan(100)
  expect(watcher.problems).toEqual([])
  expect(server.lines.filter((line) => /uncaught|ERR_/.test(line))).toEqual([])
})
