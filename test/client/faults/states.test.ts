/**
 * Over each kind of connection: who leaves and comes back in each state of a turn, while it stays and when it has gone on; a
 * server that is away, and one that is killed; a reader that does not read (FN3, FP1, I5, I7, I9).
 */
import { describe, expect, inject, onTestFinished, test } from 'vitest'
// Built, because its child is.
import { testProcess } from '../../../dist/testing/index.js'
import type { SessionState, Transport } from '../../../src/client/client.ts'
import { textOf } from '../../../src/core/parts.ts'
import type { Reply } from '../../../src/index.ts'
import { scriptedReply, testServer } from '../../../src/testing/index.ts'
import { openChat } from '../../support/chat.ts'
import { eventually } from '../../support/eventually.ts'
import { queryOnce } from '../../support/postgres.ts'
import { startProxy } from '../../support/proxy.ts'
import { jwtSecret, tokenOf } from '../../support/server.ts'
import { bytesOf, type Device, openDevice, problemsOf, shownBytes } from './device.ts'

const session = 'trip'
const transports = ['websocket', 'sse', 'poll'] as const
const story = 'Once upon a time.'

type Case = {
  state: string
  reply(): { reply: Reply; letGo?(): void }
  /** What brings it there, beside a message `m1` that is sent. */
  reach?(world: { phone: Device }): Promise<unknown>
  isThere(state: SessionState): boolean
  /** Its text, where a call stands between two steps. */
  whole?: string
  goOn(world: { laptop: Device; database: string; letGo(): void }): unknown
}

const gated = () => {
  const reply = scriptedReply(['Once ', { wait: 'go' }, 'upon a time.'])
  return { reply, letGo: () => reply.open('go') }
}
const statusOf = ({ messages }: SessionState) => messages[1]?.status
const turnOf = ({ turns }: SessionState) => turns.at(-1)

/** Says nothing at all before it is let go. */
function silent() {
  let letGo!: () => void
  const opened = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const reply: Reply = async function* ({ signal }) {
    await Promise.race([opened, new Promise((resolve) => signal.addEventListener('abort', resolve))])
    yield story
  }
  return { reply, letGo }
}

const cases: Case[] = [
  {
    state: 'queued',
    reply: gated,
    reach: ({ phone }) => phone.handle.send({ text: 'and then?' }),
    isThere: (state) => turnOf(state)?.state === 'queued' && state.messages.length === 4,
    goOn: ({ letGo }) => letGo(),
  },
  {
    state: 'running, before its first chunk',
    reply: silent,
    isThere: (state) => turnOf(state)?.state === 'running' && statusOf(state) === 'pending',
    goOn: ({ letGo }) => letGo(),
  },
  {
    state: 'being written',
    reply: gated,
    isThere: ({ messages }) => textOf(messages[1]?.parts ?? []) === 'Once ',
    goOn: ({ letGo }) => letGo(),
  },
  {
    state: 'waiting for an approval',
    reply: () => {
      const tools = { mail: { needsApproval: true, execute: () => 'sent' } }
      return { reply: scriptedReply(['Once ', { tool: 'mail' }, 'upon a time.'], { tools }) }
    },
    isThere: (state) => turnOf(state)?.state === 'waiting',
    whole: 'Once \n\nupon a time.',
    goOn: ({ laptop: { handle } }) =>
      handle.approve(turnOf(handle.getSnapshot())!.approvals![0]!.id, { approved: true }),
  },
  {
    state: 'waiting for another attempt',
    reply: () => {
      const later = { fail: 'provider_overloaded', times: 1, retryAfterMs: 50_000 } as const
      return { reply: scriptedReply(['Once ', later, 'upon a time.']) }
    },
    isThere: (state) => turnOf(state)?.dueAt !== undefined,
    goOn: ({ database }) => queryOnce(database, 'update holdfast.turns set due_at = now()'),
  },
  {
    state: 'complete',
    reply: () => ({ reply: scriptedReply([story]) }),
    isThere: (state) => statusOf(state) === 'complete',
    goOn: ({ laptop: { handle } }) => handle.send({ text: 'and then?' }),
  },
  {
    state: 'failed',
    reply: () => ({ reply: scriptedReply(['Once ', { fail: 'provider_rejected', times: 1 }, 'upon a time.']) }),
    isThere: (state) => statusOf(state) === 'failed',
    goOn: ({ laptop: { handle } }) => handle.retry('m1'),
  },
  {
    state: 'stopped',
    reply: gated,
    async reach({ phone }) {
      await eventually(async () => textOf(phone.handle.getSnapshot().messages[1]?.parts ?? []) === 'Once ')
      await phone.handle.stop()
    },
    isThere: (state) => statusOf(state) === 'stopped',
    async goOn({ letGo, laptop: { handle } }) {
      letGo()
      await handle.retry('m1')
    },
  },
]

const isLive = ({ handle }: Device) => eventually(async () => handle.getSnapshot().isLive)
const isThere = ({ handle }: Device, matches: Case['isThere']) =>
  eventually(async () => handle.getSnapshot().isLive && matches(handle.getSnapshot()))
const isOver = (device: Device, ends: string, count: number) =>
  isThere(device, ({ messages, turns }) => {
    const last = messages.at(-1)
    return (
      messages.length === count && turns.length === 0 && textOf(last!.parts) === ends && last!.status === 'complete'
    )
  })

/** When a message was last written not every event tells. */
const timeless = (bytes: string) => bytes.replaceAll(/"updatedAt":"[^"]*"/g, '')

/** Its messages, as the server tells them. */
async function storedBytes(url: string, token: string): Promise<string> {
  const response = await fetch(`${url}/v1/sessions/${session}`, { headers: { authorization: `Bearer ${token}` } })
  return bytesOf(((await response.json()) as { messages: unknown }).messages)
}

function opener(url: string, token: string, transport: Transport, whole: (said: string, attempt: number) => string) {
  const devices: Device[] = []
  onTestFinished(() => {
    for (const device of devices) device.close()
  })
  return {
    devices,
    open(name: string, at = url): Device {
      const device = openDevice({ name, url: at, user: `ann ${name}`, token, session, transport, textOf: whole })
      devices.push(device)
      return device
    },
  }
}

describe.each(transports)('over %s', (transport) => {
  test.each(cases)('who leaves a reply that is $state finds it so, and as it is by then (I5, I7)', async (one) => {
    const { whole = story } = one
    const { reply, letGo = () => undefined } = one.reply()
    const server = await testServer({ database: inject('postgres').url18, reply })
    onTestFinished(() => server.close())
    onTestFinished(letGo)
    await server.chat.sessions.create({ id: session, userId: 'ann' })
    const token = await server.token('ann')
    const { devices, open } = opener(server.url, token, transport, () => whole)
    const [phone, laptop] = [open('phone'), open('laptop')]
    await Promise.all([isLive(phone), isLive(laptop)])
    await phone.handle.send({ text: 'a story' }, { id: 'm1' })
    await one.reach?.({ phone })
    for (const device of [phone, laptop]) await isThere(device, one.isThere)

    phone.leave()
    await eventually(async () => phone.client.connection.getSnapshot().phase === 'idle')
    phone.back()
    const late = open('late')
    for (const device of [phone, late]) await isThere(device, one.isThere)
    expect(shownBytes(phone)).toBe(shownBytes(late))
    expect(phone.handle.getSnapshot().turns).toEqual(late.handle.getSnapshot().turns)

    phone.leave()
    await one.goOn({ laptop, database: server.database, letGo })
    const count = one.state === 'queued' || one.state === 'complete' ? 4 : 2
    await isOver(laptop, whole, count)
    phone.back()
    const stored = timeless(await storedBytes(server.url, token))
    for (const device of devices) {
      await isOver(device, whole, count)
      expect(timeless(shownBytes(device))).toBe(stored)
    }
    expect(devices.flatMap(problemsOf)).toEqual([])
  })

  test('while the server cannot be reached what is written waits in sight; back, all is there, in order, on both devices', async () => {
    const reply = scriptedReply([story])
    const server = await testServer({ database: inject('postgres').url18, reply })
    onTestFinished(() => server.close())
    await server.chat.sessions.create({ id: session, userId: 'ann' })
    const token = await server.token('ann')
    const { devices, open } = opener(server.url, token, transport, () => story)
    const [phone, laptop] = [open('phone'), open('laptop')]
    await Promise.all(devices.map(isLive))
    server.refuse()
    await eventually(async () => devices.every(({ handle }) => !handle.getSnapshot().isLive))
    const written = ['m1', 'm2'].map((id) => phone.handle.send({ text: id }, { id }))
    await server.chat.send(session, { id: 'm0', userId: 'ann', text: 'from elsewhere' })
    const shown = () => phone.handle.getSnapshot().messages.map(({ id, delivery }) => `${id} ${delivery?.state}`)
    await eventually(async () => shown().join() === 'm1 waiting,m2 waiting')
    server.allow()
    for (const { client } of devices) client.wake()
    await Promise.all(written)
    const count = 6
    for (const device of [phone, laptop]) await isOver(device, story, count)
    const stored = await storedBytes(server.url, token)
    for (const device of devices) expect(shownBytes(device)).toBe(stored)
    const own = phone.handle.getSnapshot().messages.filter(({ role }) => role === 'user')
    expect(own.map(({ id }) => id)).toEqual(['m0', 'm1', 'm2'])
    expect(devices.flatMap(problemsOf)).toEqual([])
  })

  test('a server that is killed in the middle of a reply, and started again: the reply is taken over in sight (FP1, I9)', async () => {
    const module = new URL('app.mjs', import.meta.url)
    const server = await testProcess({ module, database: inject('postgres').url18, env: { JWT_SECRET: jwtSecret } })
    onTestFinished(() => server.close())
    const token = await tokenOf('ann')
    const whole = (said: string, attempt: number) => `[${said}#${attempt}] half of it and the rest`
    const { devices, open } = opener(server.url, token, transport, whole)
    const [phone, laptop] = [open('phone'), open('laptop')]
    await phone.client.createSession({ id: session })
    for (const { client } of devices) client.wake()
    await Promise.all(devices.map(isLive))
    await phone.handle.send({ text: 'm1' }, { id: 'm1' })
    for (const device of devices) {
      await isThere(device, ({ messages }) => textOf(messages[1]?.parts ?? []) === '[m1#1] half of it')
    }
    await server.kill()
    await eventually(async () => devices.every(({ handle }) => !handle.getSnapshot().isLive))
    const written = phone.handle.send({ text: 'm2' }, { id: 'm2' })
    await eventually(async () => phone.handle.getSnapshot().messages[2]?.id === 'm2')
    // What was shown stays.
    expect(textOf(laptop.handle.getSnapshot().messages[1]!.parts)).toBe('[m1#1] half of it')
    await server.restart()
    for (const { client } of devices) client.wake()
    await written
    // The second one's first attempt does not end either.
    for (const device of devices) {
      await isThere(device, ({ messages }) => textOf(messages[3]?.parts ?? []) === '[m2#1] half of it')
      expect(textOf(device.handle.getSnapshot().messages[1]!.parts)).toBe('[m1#2] half of it and the rest')
    }
    await server.kill()
    await server.restart()
    for (const { client } of devices) client.wake()
    for (const device of devices) await isOver(device, '[m2#2] half of it and the rest', 4)
    const stored = await storedBytes(server.url, token)
    for (const device of devices) expect(shownBytes(device)).toBe(stored)
    expect(devices.flatMap(problemsOf)).toEqual([])
  })

  test('a device that does not read holds up nobody, and misses nothing when it does (FN3)', async () => {
    const long = 'x'.repeat(900_000)
    const replies = 6
    const { url, ann } = await openChat({
      limits: { sendsPerMinute: 0 },
      async *reply() {
        for (let at = 0; at < long.length; at += 100_000) {
          await new Promise(setImmediate)
          yield long.slice(at, at + 100_000)
        }
      },
    })
    await ann.createSession(session)
    const { hostname, port } = new URL(url)
    const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
    onTestFinished(() => proxy.close())
    const token = await tokenOf('ann')
    const { devices, open } = opener(url, token, transport, () => long)
    const [laptop, slow] = [open('laptop'), open('slow', `http://${proxy.host}:${proxy.port}`)]
    await Promise.all(devices.map(isLive))
    proxy.hang('down')
    for (let at = 0; at < replies; at++) await laptop.handle.send({ text: 'long, please' }, { id: `m${at}` })
    await isOver(laptop, long, 2 * replies)
    expect(slow.handle.getSnapshot().messages.filter(({ status }) => status === 'complete').length).toBeLessThan(
      replies,
    )
    proxy.resume('down')
    await isOver(slow, long, 2 * replies)
    const stored = await storedBytes(url, token)
    for (const device of devices) expect(shownBytes(device) === stored).toBe(true)
    expect(devices.flatMap(problemsOf)).toEqual([])
  })
})
