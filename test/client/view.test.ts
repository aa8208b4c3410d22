/** What a client shows of a session is what the server has stored, from whichever snapshot it goes on (I5, I7). */
import { setImmediate as turnOfLoop } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Turn } from '../../src/core/message.ts'
import { textOf } from '../../src/core/parts.ts'
import { createView, isChunkFrame, type LogFrame, newMessage, type Shown, type Snapshot } from '../../src/core/view.ts'
import { type Reply, ReplyError } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { type Api, ApiError } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { seeded } from '../support/random.ts'
import { comparable, type Given, record } from './cases.ts'

const last = 'That was all.'

/** Says what its message asks for; `hold` until it is let go. */
function talkative() {
  const held: (() => void)[] = []
  let isOver = false
  const reply: Reply = async function* ({ message, signal }) {
    const said = textOf(message.parts as Parameters<typeof textOf>[0])
    for (const word of 'These are the words of an answer to'.split(' ')) {
      yield `${word} `
      await turnOfLoop()
      if (word === 'words' && said.startsWith('hold') && !isOver) {
        await new Promise<void>((resolve) => {
          held.push(resolve)
          signal.addEventListener('abort', () => resolve())
        })
      }
      if (word === 'answer' && said.startsWith('fail')) throw new ReplyError('provider_rejected', 'no')
    }
    yield said
  }
  const letGo = () => {
    for (const resolve of held.splice(0)) resolve()
  }
  return {
    reply,
    letGo,
    end() {
      isOver = true
      letGo()
    },
  }
}

async function snapshotOf(ann: Api, session: string): Promise<Snapshot> {
  return (await (await ann.request(`/v1/sessions/${session}?limit=100`)).json()) as Snapshot
}

type Seen = { end: Shown; at: Map<string, Shown>; taken: number; problems: string[]; given: Given[] }

/** By long polls, from a snapshot to the last word. */
async function followFrom(ann: Api, session: string, snapshot: Snapshot): Promise<Seen> {
  const seen: Seen = { end: {} as Shown, at: new Map(), taken: 0, problems: [], given: [{ snapshot }] }
  let view = createView(snapshot)
  while (!view.now().messages.some(({ parts }) => textOf(parts) === last)) {
    const { frames } = await ann.poll(session, { cursor: view.now().cursor, wait: 25 })
    for (const frame of frames as unknown as LogFrame[]) {
      const before = view.now()
      const leadsOn = view.take(frame)
      seen.given.push({ frame, leadsOn })
      if (!leadsOn) {
        const fresh = await snapshotOf(ann, session)
        seen.given.push({ snapshot: fresh })
        view = createView(fresh)
        break
      }
      seen.taken++
      const now = view.now()
      seen.at.set(now.cursor, now)
      if (isChunkFrame(frame)) {
        const [was, is] = [before, now].map((shown) => textIn(shown, frame.messageId))
        if (!is!.startsWith(was!)) seen.problems.push(`“${was}” became “${is}”`)
      }
    }
  }
  seen.end = view.now()
  return seen
}

/** When a message was last written not every event tells that writes it; when a reply was begun its outcome tells. */
const timeless = (messages: Shown['messages']) =>
  messages.map(({ updatedAt: _, createdAt, ...message }) => ({
    ...message,
    ...(message.status === 'pending' || message.status === 'streaming' ? {} : { createdAt }),
  }))

const textIn = ({ messages }: Shown, id: string) => textOf(messages.find((each) => each.id === id)?.parts ?? [])

test.each([1, 2, 3, 4, 5, 6])(
  'views that begin anywhere in a session of sends, stops, retries, edits and branches end as what is stored (seed %i)',
  async (seed) => {
    const random = seeded(seed)
    const { reply, letGo, end } = talkative()
    const { chat, ann, session, watcher } = await openChat({ reply, limits: { sendsPerMinute: 0 } })
    const snapshots: Snapshot[] = []
    const followers: Promise<Seen>[] = []
    const ids: string[] = []
    const busy = ['queue', 'interrupt', 'steer'] as const
    const actions: (() => Promise<unknown>)[] = [
      () => {
        ids.push(`m${ids.length}`)
        const text = `${['say', 'hold', 'fail'][random(3)]} ${ids.length}`
        return ann.send(session, text, ids.at(-1), { whenBusy: busy[random(3)] })
      },
      () => ann.command(session, ids[random(ids.length)]!, 'stop'),
      () => ann.command(session, ids[random(ids.length)]!, 'retry'),
      () => {
        const id = `e${snapshots.length}`
        ids.push(id)
        return ann.command(session, ids[random(ids.length - 1)]!, 'edit', { id, text: `say edited ${id}` })
      },
      () => ann.command(session, ids[random(ids.length)]!, 'regenerate', { id: `r${snapshots.length}` }),
      () => ann.command(session, ids[random(ids.length)]!, 'select'),
      async () => letGo(),
      async () => chat.say(session, { text: `A notice ${snapshots.length}` }),
    ]
    await actions[0]!()
    for (let at = 0; at < 30; at++) {
      const action = actions[random(2) === 0 ? 0 : random(actions.length)]!
      await action().catch((error: unknown) => {
        if (!(error instanceof ApiError)) throw error
      })
      const snapshot = await snapshotOf(ann, session)
      snapshots.push(snapshot)
      if (at % 5 === 0) followers.push(followFrom(ann, session, snapshot))
    }
    end()
    await eventually(async () => (await snapshotOf(ann, session)).turns.length === 0)
    await chat.say(session, { text: last })
    const stored = await snapshotOf(ann, session)
    const all = await Promise.all(followers)
    for (const seen of all) {
      expect(seen.problems).toEqual([])
      expect(timeless(seen.end.messages)).toEqual(timeless(stored.messages))
      expect(seen.end.turns).toEqual([])
    }
    // And on the way, wherever a snapshot was of a moment that one was at, too.
    let met = 0
    for (const snapshot of snapshots) {
      const { messages, turns } = createView(snapshot).now()
      for (const { at } of all) {
        const there = at.get(snapshot.cursor)
        if (there === undefined) continue
        met++
        expect({ messages: timeless(there.messages), turns: there.turns }).toEqual({
          messages: timeless(messages),
          turns,
        })
      }
    }
    expect(all.reduce((sum, { taken }) => sum + taken, 0)).toBeGreaterThan(50)
    expect(met).toBeGreaterThan(10)
    expect(watcher.problems).toEqual([])
    await record(`seed-${seed}`, all[0]!.given, random)
  },
)

test('between two attempts, in a new round and behind another branch a view says what the snapshot of that moment says', async () => {
  const held: (() => void)[] = []
  const ends = [
    new ReplyError('provider_overloaded', 'no', { retryAfterMs: 1 }),
    new ReplyError('provider_rejected', 'no'),
  ]
  const reply: Reply = async function* ({ attempt, signal }) {
    if (attempt > 1) {
      await new Promise<void>((resolve) => {
        held.push(resolve)
        signal.addEventListener('abort', () => resolve())
      })
    }
    yield `words of attempt ${attempt}`
    const end = ends[attempt - 1]
    if (end !== undefined) throw end
  }
  const { ann, session } = await openChat({ reply, limits: { sendsPerMinute: 0 } })
  let view = createView(await snapshotOf(ann, session))
  /** Followed until it says so, and then the same as what is stored. */
  const until = async (isThere: (shown: Shown) => boolean) => {
    while (!isThere(view.now())) {
      const { frames } = await ann.poll(session, { cursor: view.now().cursor, wait: 25 })
      if (!(frames as unknown as LogFrame[]).every((frame) => view.take(frame))) {
        view = createView(await snapshotOf(ann, session))
      }
    }
    const stored = createView(await snapshotOf(ann, session)).now()
    expect(comparable(view.now())).toEqual(comparable(stored))
  }
  const runs =
    (attempt: number) =>
    ({ turns }: Shown) =>
      turns[0]?.attempt === attempt && turns[0].state === 'running'
  const isOver = ({ turns }: Shown) => turns.length === 0
  const next = async () => {
    await eventually(async () => held.length > 0)
    held.pop()!()
  }

  await ann.send(session, 'hello', 'm1')
  await until(runs(2))
  expect(view.now().messages[1]).toMatchObject({ status: 'streaming', parts: [] })
  await next()
  await until(isOver)
  await ann.command(session, 'm1', 'retry')
  await until(runs(3))
  await next()
  await until(isOver)
  await ann.command(session, 'm1', 'regenerate', { id: 'r4' })
  await until(runs(4))
  await ann.command(session, 'm1', 'stop')
  await until(isOver)
  await ann.command(session, view.now().messages[1]!.branch!.previous!, 'select')
  await until(({ messages }) => messages[1]?.branch?.index === 1)
  await ann.command(session, 'm1', 'retry')
  await until(runs(5))
  await next()
  await until(isOver)
})

test('a piece of a reply is taken without a look at the messages before it, however many there are', () => {
  let looks = 0
  const lookedAt = (count: number) => {
    const about = { sessionId: 's', lane: 'main', at: '2026-01-01T00:00:00.000Z' }
    const messages = Array.from({ length: count }, (_, at) => {
      const message = newMessage({ ...about, id: `m${at}`, seq: at, role: at % 2 === 0 ? 'user' : 'assistant' })
      return Object.defineProperty(message, 'id', {
        enumerable: true,
        get() {
          looks++
          return `m${at}`
        },
      })
    })
    const [messageId, replyId] = [`m${count - 2}`, `m${count - 1}`]
    const turn = { id: 't', messageId, replyId, state: 'running', attempt: 1, round: 1 } as Turn
    const session = { id: 's' } as Shown['session']
    const open = [{ turnId: 't', replyId, attempt: 1, index: 1, chunks: [{ type: 'text-start' as const, id: 'a' }] }]
    const view = createView({ session, members: [], messages, before: null, turns: [turn], open, cursor: 'c0' })
    const before = view.now()
    looks = 0
    view.take({
      ...{ type: 'chunk', after: 'c0', cursor: 'c1', turnId: 't', messageId: replyId, attempt: 1, index: 1, n: 1 },
      chunks: [{ type: 'text-delta', id: 'a', delta: 'word' }],
    })
    const now = view.now()
    expect(textOf(now.messages.at(-1)!.parts)).toBe('word')
    expect(now.messages.slice(0, -1).every((message, at) => message === before.messages[at])).toBe(true)
    expect(now.turns).toBe(before.turns)
    return looks
  }
  const ofFew = lookedAt(10)
  expect(lookedAt(1_000)).toBe(ofFew)
})
