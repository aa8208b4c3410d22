/**
 * FN1, FN5: a client whose network breaks at any byte, many seeded runs for each kind of connection (I1, I5, I7). Each run is a
 * session of its own, two devices behind one broken network, and all of it is said in its seed.
 * HOLDFAST_CLIENT_RUNS: how many runs of each kind. HOLDFAST_CLIENT_SEED: this one alone.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Storage, Transport } from '../../../src/client/client.ts'
import { textOf } from '../../../src/core/parts.ts'
import { type Reply, ReplyError } from '../../../src/index.ts'
import { openChat } from '../../support/chat.ts'
import { type Api, apiOf } from '../../support/client.ts'
import { eventually } from '../../support/eventually.ts'
import { startNemesis } from '../../support/nemesis.ts'
import { queryOnce } from '../../support/postgres.ts'
import { startProxy } from '../../support/proxy.ts'
import { seeded } from '../../support/random.ts'
import { tokenOf } from '../../support/server.ts'
import { disorder } from '../../support/stored.ts'
import type { TextOf } from './checker.ts'
import { bytesOf, type Device, openDevice, problemsOf, shownBytes } from './device.ts'

const runsOfEach = Number(process.env.HOLDFAST_CLIENT_RUNS ?? 168)
const onlySeed = process.env.HOLDFAST_CLIENT_SEED
const atATime = 12
const paceMs = 5_000
const blockSize = 21
const faultsMax = 8
const sentMax = 6

const words = 'the river that runs below the old town – naïve, 漢字 and 🛶 – has been there for ever'.split(' ')
const textOfAttempt: TextOf = (said, attempt) => {
  const random = seeded(attempt * 31 + said.length)
  const count = Number(/ (\d+) words$/.exec(said)?.[1] ?? 3)
  return `[${said}#${attempt}] ${Array.from({ length: count }, () => words[random(words.length)]).join(' ')}`
}

/** One in four fails once in the middle, and is written anew. */
const reply: Reply = async function* ({ message, attempt, signal }) {
  const said = textOf(message.parts as Parameters<typeof textOf>[0])
  const whole = textOfAttempt(said, attempt)
  const random = seeded(said.length * 7 + attempt)
  const failsAt = said.startsWith('fail') && attempt === 1 ? random(whole.length) : whole.length
  for (let at = 0; at < failsAt; ) {
    const end = Math.min(at + 2 + random(12), failsAt)
    yield whole.slice(at, end)
    at = end
    await pause(random(8), undefined, { signal }).catch(() => undefined)
    if (signal.aborted) return
  }
  if (failsAt < whole.length) throw new ReplyError('provider_overloaded', 'as the run wants it')
}

type Sent = { id: string; text: string; by: 'phone' | 'laptop' }
type Run = { transport: Transport; seed: number; server: string }
/** `again`: messages whose reply fails once; `left`: devices that leave and come back. */
type Totals = { faults: number; cuts: number; frames: number; states: number; again: number; left: number }

/** Answers what was wrong. */
async function run({ transport, seed, server }: Run, totals: Totals): Promise<string[]> {
  const random = seeded(seed * 3 + ['websocket', 'sse', 'poll'].indexOf(transport))
  const user = `${transport}-${seed}`
  const session = `s-${transport}-${seed}`
  const { hostname, port } = new URL(server)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  const api = await apiOf(server, user)
  const token = await tokenOf(user)
  const devices: Device[] = []
  const closed: Device[] = []

  const url = `http://${proxy.host}:${proxy.port}`
  const open = (name: string, storage?: Storage): Device => {
    // Each keeps its own: they are no tabs of one browser.
    const keptAs = `${user} ${name.split(',')[0]}`
    const device = openDevice({ name, url, user: keptAs, token, session, transport, textOf: textOfAttempt, storage })
    devices.push(device)
    return device
  }
  const shut = (device: Device) => {
    device.close()
    devices.splice(devices.indexOf(device), 1)
    closed.push(device)
  }
  /** Only the pace of a run: when nothing more comes, it goes on. */
  const framesOf = (device: Device, more: number) =>
    eventually(async () => isWell || device.checker.counts.frames >= more, paceMs).catch(() => undefined)

  // Made beforehand, or with its first message.
  const isMade = random(5) > 0
  if (isMade) await api.createSession(session)
  let phone = open('phone')
  const laptop = open('laptop')
  const wake = () => {
    for (const { client } of devices) client.wake()
  }
  // In one run of twenty nobody hears of it, and they come back by their own waits until all faults are over.
  const nemesis = startNemesis(proxy, random, faultsMax, random(20) > 0 ? wake : undefined)
  let isWell = false
  const heal = () => {
    isWell = true
    nemesis.heal()
    wake()
  }
  void nemesis.over.then(heal)

  const sent: Sent[] = []
  const send = async (device: Device) => {
    const id = `m${sent.length}`
    const text = `${random(4) === 0 ? 'fail' : 'say'} ${id} in ${2 + random(12)} words`
    sent.push({ id, text, by: device === laptop ? 'laptop' : 'phone' })
    if (!isMade) device.begins++
    await device.handle.send({ text }, { id })
  }
  const talk = async () => {
    const count = 2 + random(3)
    // Some more where little has befallen them.
    for (let at = 0; at < count || (at < sentMax && nemesis.done.length < faultsMax / 2); at++) {
      const done = send(random(3) === 0 && isMade ? laptop : phone)
      // Closed under way: its next page sends it.
      done.catch(() => undefined)
      const patience = at < count ? random(3) : 2
      if (patience === 1) await Promise.race([done, pause(300)])
      if (patience === 2) await framesOf(phone, phone.checker.counts.frames + 1 + random(12))
    }
  }
  /** One device does something else meanwhile. */
  const wander = async () => {
    const what = random(5)
    await framesOf(laptop, 1 + random(20))
    if (what === 0) {
      laptop.leave()
      await framesOf(phone, phone.checker.counts.frames + random(20))
      laptop.back()
      totals.left++
    } else if (what === 1) {
      // A reload: what it had is what its storage has.
      const { storage } = phone
      shut(phone)
      phone = open('phone, reloaded', storage)
      totals.left++
    } else if (what === 2) {
      // One that nobody has begun would be taken back.
      const running = laptop.handle.getSnapshot().turns.find(({ state }) => state === 'running')
      if (running !== undefined) await laptop.handle.stop(running.messageId)
    } else if (what === 3) open('tablet')
  }

  const problems: string[] = []
  const wrong = (what: string) => problems.push(`${user}: ${what}`)
  try {
    await Promise.all([talk(), wander()])
    heal()
    await eventually(async () => {
      // It was made after that device had asked for it, which asks again each minute only.
      for (const { client, handle } of devices) if (handle.getSnapshot().phase === 'missing') client.wake()
      return devices.every((device) => isThrough(device, sent.length))
    })
    const stored = await api.request(`/v1/sessions/${session}?limit=200`)
    await agree(JSON.parse(await stored.text()), sent, devices, wrong)
  } catch (error) {
    wrong(`did not come to its end: ${String(error).slice(0, 200)}`)
    for (const { name, client, handle } of devices) {
      const { phase, isLive, messages, turns, error: why } = handle.getSnapshot()
      const shown = messages.map(({ id, status, delivery }) => `${id} ${delivery?.state ?? status}`)
      wrong(
        `${name}: ${JSON.stringify({ phase, isLive, shown, turns, why, connection: client.connection.getSnapshot() })}`,
      )
    }
  }
  for (const device of [...devices, ...closed]) {
    problems.push(...problemsOf(device))
    const { counts } = device.checker
    totals.frames += counts.frames
    totals.states += counts.states
  }
  totals.faults += nemesis.done.length
  totals.cuts += proxy.counts.cut
  totals.again += sent.filter(({ text }) => text.startsWith('fail')).length
  for (const device of [...devices]) shut(device)
  await proxy.close()
  return problems.length === 0 ? [] : [...problems, `${user}: befallen by ${nemesis.done.join('; ')}`]
}

/** All that was said is answered, and it is shown. */
function isThrough({ handle }: Device, count: number): boolean {
  const { isLive, messages, turns } = handle.getSnapshot()
  const settled = messages.filter(({ role, status }) => role === 'assistant' && /complete|stopped|failed/.test(status))
  return isLive && turns.length === 0 && settled.length === count && messages.length === 2 * count
}

type Stored = Awaited<ReturnType<Api['snapshot']>>

/** What each device shows is what is stored, byte for byte; and each message is stored once, with one reply. */
async function agree(stored: Stored, sent: Sent[], devices: Device[], wrong: (what: string) => void): Promise<void> {
  const bytes = bytesOf(stored.messages)
  for (const device of devices) {
    const { name, checker } = device
    const here = shownBytes(device)
    if (here !== bytes) wrong(`${name} shows ${differing(here, bytes)}, stored is ${differing(bytes, here)}`)
    if (checker.cursor() !== stored.cursor) wrong(`${name} stands at ${checker.cursor()}, the log at ${stored.cursor}`)
  }
  for (const { id, text } of sent) {
    const own = stored.messages.filter((message) => message.id === id)
    const replies = stored.messages.filter(({ repliesTo }) => repliesTo === id)
    if (own.length !== 1 || textOf(own[0]!.parts) !== text) wrong(`${id} is stored ${own.length} times`)
    if (replies.length !== 1) wrong(`${id} has ${replies.length} replies`)
  }
  // Of one device, also after its page was reloaded, in the order in which they were written.
  for (const by of ['phone', 'laptop'] as const) {
    const written = sent.filter((each) => each.by === by).map(({ id }) => id)
    const order = stored.messages.filter(({ id }) => written.includes(id)).map(({ id }) => id)
    if (order.join() !== written.join()) wrong(`${by} wrote ${written}, stored is ${order}`)
  }
  if (stored.messages.length !== 2 * sent.length) wrong(`${stored.messages.length} messages of ${sent.length} sent`)
}

/** Where it becomes another. */
function differing(one: string, other: string): string {
  let at = 0
  while (one[at] === other[at] && at < one.length) at++
  return `…${one.slice(Math.max(0, at - 80), at + 80)}…`
}

const transports = ['websocket', 'sse', 'poll'] as const
const blocks = transports.flatMap((transport) =>
  Array.from({ length: Math.ceil(runsOfEach / blockSize) }, (_, block) => {
    const first = block * blockSize + 1
    return { transport, first, last: Math.min(first + blockSize - 1, runsOfEach) }
  }),
)
const only = transports.map((transport) => ({ transport, first: Number(onlySeed), last: Number(onlySeed) }))

test.each(onlySeed === undefined ? blocks : only)(
  'over $transport, broken at any byte, nothing is lost, doubled or shown wrongly: seeds $first to $last (FN1, FN5, I1, I5, I7)',
  async ({ transport, first, last }) => {
    const { url, database } = await openChat({ reply, limits: { sendsPerMinute: 0 }, pollMs: 200 })
    const totals: Totals = { faults: 0, cuts: 0, frames: 0, states: 0, again: 0, left: 0 }
    const failed: string[] = []
    const seeds = Array.from({ length: last - first + 1 }, (_, at) => first + at)
    const rest = [...seeds]
    const work = async () => {
      for (let seed = rest.shift(); seed !== undefined; seed = rest.shift()) {
        const problems = await run({ transport, seed, server: url }, totals)
        if (problems.length > 0) failed.push(`HOLDFAST_CLIENT_SEED=${seed}, ${transport}:\n  ${problems.join('\n  ')}`)
      }
    }
    await Promise.all(Array.from({ length: atATime }, work))
    expect(failed.slice(0, 5).join('\n\n'), `${failed.length} of ${seeds.length} runs`).toBe('')
    expect(await disorder({ query: (text) => queryOnce(database, text) })).toEqual([])
    if (seeds.length < blockSize) return
    // Else nothing was shown.
    expect(totals.faults).toBeGreaterThan(2 * seeds.length)
    expect(totals.cuts).toBeGreaterThan(2 * seeds.length)
    expect(totals.frames).toBeGreaterThan(10 * seeds.length)
    expect(totals.again).toBeGreaterThan(seeds.length / 8)
    expect(totals.left).toBeGreaterThan(seeds.length / 8)
  },
)
