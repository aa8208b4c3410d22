/** Ann's session, of which bob is a member, and two processes: ann asks the first, bob the second. */
import type { QueryResultRow } from 'pg'
import { expect } from 'vitest'
import { openScene, type Scene } from '../faults/scene.ts'
import { type Api, apiOf, type Frame, type Watcher } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'

export type Numbers = { delivered: number; read: number; unread: number }

export type TwoPeople = Scene & {
  bob: Api
  session: string
  query<Row extends QueryResultRow = { n: number }>(text: string): Promise<Row[]>
}

export async function openTwoPeople(env: Record<string, string> = {}): Promise<TwoPeople> {
  const scene = await openScene()
  const [first, second] = [await scene.start({ env }), await scene.start({ env })]
  const [ann, bob] = [await apiOf(first.url, 'ann'), await apiOf(second.url, 'bob')]
  const session = await ann.createSession('s')
  const query = <Row extends QueryResultRow>(text: string) => queryOnce<Row>(scene.database, text)
  if (env.HOLDFAST_WAKEUPS !== 'off') await untilBothHear(scene, first.url, second.url)
  await addMember(scene, 'bob', 'member')
  return { ...scene, ann, bob, session, query }
}

/** What passes by is lost until the processes know of each other: in a session of their own two people type until then. */
async function untilBothHear(scene: Scene, ...[first, second]: [string, string]): Promise<void> {
  const [yan, zoe] = [await apiOf(first, 'yan'), await apiOf(second, 'zoe')]
  const session = await yan.createSession('before')
  await addMember(scene, 'zoe', 'member', session)
  for (const [telling, hearing] of [
    [yan, zoe],
    [zoe, yan],
  ] as const) {
    const watcher = hearing.watch(session)
    await eventually(async () => {
      const body = JSON.stringify({ isTyping: true })
      await telling.request(`/v1/sessions/${session}/typing`, { method: 'POST', body })
      return watcher.frames.some(({ type }) => type === 'typing')
    })
    await watcher.close()
  }
}

export async function addMember({ database }: Scene, userId: string, role: string, session = 's'): Promise<void> {
  const statement = `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, $2, $3)`
  await queryOnce(database, statement, [session, userId, role])
}

/** Live from now on. */
export async function live(api: Api, cursor?: string): Promise<Watcher> {
  const watcher = api.watch('s', cursor)
  await watcher.until(({ type }) => type === 'caught-up')
  return watcher
}

export const post = (api: Api, path: string, body: object) =>
  api.request(`/v1/sessions/s/${path}`, { method: 'POST', body: JSON.stringify(body) })

/** What a receipt is answered; it must be stored. */
export async function receive(api: Api, body: { delivered?: string; read?: string }): Promise<Numbers> {
  const response = await post(api, 'receipts', body)
  expect(response.status).toBe(200)
  return (await response.json()) as Numbers
}

export const passing = ({ frames }: Watcher): Frame[] =>
  frames.filter(({ type }) => type === 'receipt' || type === 'typing')

/** A cursor's places in open attempts. */
const openIn = (cursor: string) => cursor.split('.').slice(2)

/** In order, each after the one before; and with another's turns nowhere in their cursors. */
export function checkFrames({ frames, problems }: Watcher): void {
  // That events are left out is what is tested here.
  expect(problems.filter((problem) => !/^event \d+ came after \d+$/.test(problem))).toEqual([])
  const numbered = frames.filter(({ cursor, type }) => cursor !== undefined && type !== 'caught-up')
  const seqs = numbered.flatMap(({ seq }) => seq ?? [])
  expect(seqs).toEqual([...new Set(seqs)].sort((a, b) => a - b))
  const mine = new Set(frames.flatMap(({ type, seq }) => (type === 'message.created' ? [String(seq)] : [])))
  const strange = numbered.flatMap(({ cursor }) => openIn(cursor!)).filter((at) => !mine.has(at.split(':')[0]!))
  expect(strange).toEqual([])
}
