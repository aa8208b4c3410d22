import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Api, ApiError, apiOf, type Sent } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { startProvider } from './support/provider.mjs'
import { startServer, type TestServer } from './support/server.ts'
import { disorder, lostHeads, openStored, type Stored } from './support/stored.ts'

let stored: Stored
let provider: Awaited<ReturnType<typeof startProvider>>
beforeEach(async () => {
  stored = await openStored(18)
  provider = await startProvider()
})
afterEach(async () => {
  await provider.stop()
  await stored.close()
})

const startOn = (settings: Partial<Parameters<typeof startServer>[0]> = {}) =>
  startServer({ database: stored.url, provider: provider.url, ...settings })

const brief = { env: { HOLDFAST_LEASE_MS: '1000', HOLDFAST_POLL_MS: '200' } }

test('fifty sends of one id to two servers are one message, one turn and one answer (I1, I4)', async () => {
  const watched = ['accept.together:3:block=0', 'accept.one:3:block=0']
  const servers = await Promise.all([startOn({ points: watched }), startOn({ points: watched })])
  const apis = await Promise.all(servers.map(({ url }) => apiOf(url)))
  const [session, other] = [await apis[0]!.createSession(), await apis[0]!.createSession()]
  const rounds = 4
  for (let round = 0; round < rounds; round++) {
    const beside = Array.from({ length: 30 }, (_, at) => apis[at % 2]!.send(at % 3 ? other : session, 'and this'))
    const same = Array.from({ length: 50 }, (_, at) => apis[at % 2]!.send(session, 'hi', `m${round}`))
    expect(new Set((await Promise.all(same)).map(told)).size).toBe(1)
    await Promise.all(beside)
  }
  // Several batches were sent, and several were not enough.
  for (const server of servers) {
    await server.line(/^point accept.together 3/)
    await server.line(/^point accept.one 3/)
  }
  const conflict = await apis[0]!.send(session, 'yet another', 'm0').catch((error: unknown) => error)
  expect(conflict).toBeInstanceOf(ApiError)
  expect((conflict as ApiError).problem).toMatchObject({ status: 422, code: 'id_conflict', userMessageId: 'm0' })
  expect(await stored.query('select count(*)::int as n from holdfast.turns')).toEqual([{ n: rounds * 31 }])
  expect(await disorder(stored)).toEqual([])
})

test('messages are kept, once, when every process is killed the moment they were acknowledged (I1)', async () => {
  const sent: Sent[] = []
  for (let round = 0; round < 4; round++) {
    const servers = await Promise.all([startOn(brief), startOn(brief)])
    const apis = await Promise.all(servers.map(({ url }) => apiOf(url)))
    const sessions = await Promise.all([apis[0]!.createSession(), apis[0]!.createSession()])
    const answers = Array.from({ length: 8 }, (_, at) => apis[at % 2]!.send(sessions[at % 2]!, `round ${round}`))
    // Killed at the first answer, while the others are at any point of their way.
    await Promise.race(answers)
    for (const server of servers) server.signal('SIGKILL')
    for (const each of await Promise.allSettled(answers)) if (each.status === 'fulfilled') sent.push(each.value)
    await Promise.all(servers.map(({ exited }) => exited))
  }
  expect(sent.length).toBeGreaterThanOrEqual(4)
  expect(await disorder(stored)).toEqual([])
  await startOn(brief)
  await eventually(async () => (await unfinished()) === 0)
  for (const { message, reply } of sent) {
    expect(
      await stored.query(`select status from holdfast.messages where id in ($1, $2) order by role desc`, [
        message.id,
        reply.id,
      ]),
    ).toEqual([{ status: 'complete' }, { status: 'complete' }])
  }
  expect(await lostHeads(stored)).toBe(0)
})

test.each([1, 3])(
  'an answer lost with its server (kill %i) is given to the repeated send once it is back (I1)',
  async (nth) => {
    const first = await startOn({ ...brief, points: [`accept.answered:${nth}:kill`] })
    let server: TestServer = first
    const ann = await apiOf(() => server.url)
    const session = await ann.createSession()
    const ids = Array.from({ length: nth }, () => randomUUID())
    const lost = await Promise.allSettled(ids.map((id) => ann.send(session, `I am ${id}`, id)))
    await first.exited
    expect(first.lines.filter((line) => line.startsWith('point accept.answered'))).toHaveLength(1)
    expect(lost.some(({ status }) => status === 'rejected')).toBe(true)
    const before = await stored.query<{ id: string; turn_id: string }>(
      `select id, turn_id from holdfast.messages where role = 'user'`,
    )
    expect(before.length).toBeGreaterThan(0)

    server = await startOn(brief)
    const backMs = performance.now()
    const again = await Promise.all(ids.map((id) => ann.send(session, `I am ${id}`, id)))
    expect(performance.now() - backMs).toBeLessThan(3_000)
    for (const { id, turn_id } of before) expect(again.find(({ message }) => message.id === id)?.turn.id).toBe(turn_id)
    await eventually(async () => (await unfinished()) === 0)
    expect(await stored.query('select count(*)::int as n from holdfast.turns')).toEqual([{ n: nth }])
    expect(await disorder(stored)).toEqual([])
    await expectReplies(ann, session, nth)
  },
)

async function unfinished(): Promise<number> {
  const rows = await stored.query<{ n: number }>(
    `select count(*)::int as n from holdfast.turns where state in ('queued', 'running', 'waiting')`,
  )
  return rows[0]!.n
}

async function expectReplies(api: Api, session: string, count: number): Promise<void> {
  const { messages, turns } = await api.snapshot(session)
  expect(turns).toEqual([])
  expect(messages.filter(({ role, status }) => role === 'assistant' && status === 'complete')).toHaveLength(count)
}

/** What all senders of one id are told alike. Who sends it again is told what it has cost meanwhile, too. */
function told({ message: { inputTokens: _, updatedAt: __, ...message }, reply, turn, cursor }: Sent): string {
  return JSON.stringify([message, reply.id, turn.id, cursor])
}
