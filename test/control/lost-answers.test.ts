/** FD2: the database has done what was asked, and nobody hears of it. Asked again, each command has had one effect. */
import { expect, onTestFinished, test } from 'vitest'
import { ofType } from '../faults/scene.ts'
import { apiOf, type Watcher } from '../support/client.ts'
import { dropAnswerAfter, startProxy } from '../support/proxy.ts'
import { openTalk, refusedWith, shownOf, type Talk } from './scene.ts'

type Lossy = Talk & {
  /** A new session, with a watcher of its own. */
  session: string
  watcher: Watcher
  /** Loses the database's answer to the statement of this name, and tells what the client was answered. */
  losing(statement: string, ask: () => Promise<unknown>): Promise<string | null>
}

async function openLossy(): Promise<(name: string) => Promise<Lossy>> {
  const talk = await openTalk()
  await talk.watcher.close()
  const target = new URL(talk.database)
  const proxy = await startProxy({ target: { host: target.hostname, port: Number(target.port) } })
  onTestFinished(() => proxy.close())
  target.hostname = proxy.host
  target.port = String(proxy.port)
  const { url } = await talk.start({ database: target.href, env: { HOLDFAST_ROLES: 'http' } })
  // Commands go through the proxy; who watches is at the other server.
  const ann = await apiOf(url)
  const direct = await apiOf(talk.url)
  return async (name) => {
    const session = await ann.createSession(name)
    return {
      ...talk,
      ann,
      session,
      watcher: direct.watch(session),
      command: (messageId, command, body) => ann.command(session, messageId, command, body),
      shown: () => shownOf(ann, session),
      async losing(statement, ask) {
        const lost = dropAnswerAfter(proxy, (bytes) => bytes.includes(`\0${statement}\0`))
        const answered = await refusedWith(ask())
        await lost
        return answered
      },
    }
  }
}

const typesOf = ({ frames }: Watcher) => frames.filter(({ seq }) => seq !== undefined).map(({ type }) => type)

test('each command whose answer was lost is asked again and has had one effect (FD2, I2, I10, I11)', async () => {
  const open = await openLossy()

  const retried = await open('retried')
  await retried.ann.send(retried.session, 'please fail', 'm1')
  await retried.watcher.outcome('m1')
  retried.mend()
  const retry = () => retried.command('m1', 'retry', { round: 1 })
  expect(await retried.losing('retry', retry)).toBe('unavailable')
  await retried.watcher.until(({ type }) => type === 'message.ai_response')
  expect((await retry()).turn).toMatchObject({ state: 'complete', round: 2 })
  expect(ofType(retried.watcher, 'turn.queued')).toHaveLength(1)
  expect(await retried.shown()).toEqual(['user: please fail', 'assistant: Re please fail (1) [2/2]'])

  const regenerate = () => retried.command('m1', 'regenerate', { id: 'r3' })
  expect(await retried.losing('regenerate', regenerate)).toBe('unavailable')
  await retried.watcher.until(({ type, data }) => type === 'message.ai_response' && data.message.id === 'r3')
  expect((await regenerate()).turn).toMatchObject({ state: 'complete', round: 3, replyId: 'r3' })
  expect(ofType(retried.watcher, 'turn.queued')).toHaveLength(2)

  const edit = () => retried.command('m1', 'edit', { id: 'm1b', text: 'again' })
  expect(await retried.losing('edit', edit)).toBe('unavailable')
  await retried.watcher.outcome('m1b')
  expect((await edit()).message).toMatchObject({ id: 'm1b', branch: { index: 1, count: 2 } })
  expect(ofType(retried.watcher, 'message.created')).toHaveLength(2)

  const select = () => retried.command('m1', 'select')
  expect(await retried.losing('select-branch', select)).toBe('unavailable')
  await retried.watcher.until(({ type }) => type === 'branch.selected')
  expect((await select()).message).toMatchObject({ id: 'm1', branch: { index: 0, count: 2 } })
  expect(ofType(retried.watcher, 'branch.selected')).toHaveLength(1)
  await retried.watcher.close()
  expect(retried.watcher.problems).toEqual([])
})

test('a stop, a withdrawal and a change in its place whose answers were lost have had one effect (FD2, I11)', async () => {
  const talk = await (await openLossy())('stopped')
  const { ann, session, watcher } = talk
  await ann.send(session, 'wait', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await ann.send(session, 'secnd', 'm2')
  await ann.send(session, 'a slip', 'm3')

  const change = () => talk.command('m2', 'edit', { id: 'e1', text: 'second' })
  expect(await talk.losing('edit', change)).toBe('unavailable')
  const withdraw = () => talk.command('m3', 'stop', { round: 1 })
  expect(await talk.losing('stop', withdraw)).toBe('unavailable')
  expect((await withdraw()).message.parts).toEqual([{ type: 'text', text: 'a slip' }])
  const stop = () => talk.command('m1', 'stop', { round: 1 })
  expect(await talk.losing('stop', stop)).toBe('unavailable')
  expect((await stop()).reply).toMatchObject({ status: 'stopped' })

  await watcher.outcome('m2')
  // Only now, when its turn has its outcome: it was changed, and begins no branch.
  expect((await change()).message).toMatchObject({ id: 'm2', branch: null, parts: [{ type: 'text', text: 'second' }] })
  expect(await refusedWith(talk.command('m2', 'edit', { id: 'e1', text: 'other' }))).toBe('id_conflict')
  expect(ofType(watcher, 'message.changed')).toHaveLength(1)
  expect(ofType(watcher, 'message.stopped').map(({ data }) => [data.userMessageId, data.reason])).toEqual([
    ['m3', 'withdrawn'],
    ['m1', undefined],
  ])
  expect(await talk.shown()).toEqual([
    'user: wait',
    'assistant stopped: Half of wait',
    'user: second',
    'assistant: Re second (1)',
  ])
  expect((await ann.snapshot(session)).session).toMatchObject({ messageCount: 4, lastPreview: 'Re second (1)' })
  await watcher.close()
  expect(watcher.problems).toEqual([])
})

test.each(['queue', 'interrupt', 'steer', 'reject'])(
  'a message sent with %s whose answer was lost is stored once, and stops what it stops once (FD2, I1, I2)',
  async (whenBusy) => {
    const talk = await (await openLossy())(whenBusy)
    const { ann, session, watcher } = talk
    // `reject` is answered as any on a free lane, and as what is stored when it is asked again on a busy one.
    const isFree = whenBusy === 'reject'
    if (!isFree) {
      await ann.send(session, 'wait', 'm1')
      await watcher.until(({ type }) => type === 'chunk')
    }
    const said = isFree ? 'wait' : 'rather this'
    const send = () => ann.send(session, said, 'm2', { whenBusy })
    // A send is asked again by the server itself: the client's own repeat is the third time.
    expect(await talk.losing('accept-one', send)).toBe(null)
    expect((await send()).message.id).toBe('m2')
    talk.goOn()
    await watcher.outcome('m2')
    const created = isFree ? ['m2'] : ['m1', 'm2']
    expect(ofType(watcher, 'message.created').map(({ data }) => data.message.id)).toEqual(created)
    const stops = whenBusy === 'interrupt' ? ['m1'] : []
    expect(ofType(watcher, 'message.stopped').map(({ data }) => data.userMessageId)).toEqual(stops)
    expect(typesOf(watcher).filter((type) => type === 'message.ai_response')).toHaveLength(
      created.length - stops.length,
    )
    await watcher.close()
    expect(watcher.problems).toEqual([])
  },
)
