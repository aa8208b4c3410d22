/**
 * What becomes of a message that is sent while its lane is in each of its states, by each of the four words of `whenBusy`:
 * who is stopped, who is refused, what is answered in which order, and what the model is told.
 */
import { expect, test } from 'vitest'
import { outcomesOf } from '../faults/scene.ts'
import type { Watcher } from '../support/client.ts'
import { queryOnce } from '../support/postgres.ts'
import type { TestServer } from '../support/server.ts'
import { openTalk, refusedWith, type Talk } from './scene.ts'

const words = ['queue', 'interrupt', 'steer', 'reject'] as const
type Word = (typeof words)[number]
type State = 'free' | 'queued behind' | 'running' | 'backing off' | 'being stopped' | 'owner dead' | 'owner paused'
type Case = { state: State; word: Word; session: string; watcher: Watcher; refused: string | null }

const first = ({ state, word }: Pick<Case, 'state' | 'word'>) =>
  `${state === 'backing off' ? 'later' : 'wait'} ${state} ${word}`
const then = ({ state, word }: Pick<Case, 'state' | 'word'>) => `then ${state} ${word}`

/** What was said before, and has been brought into this state. */
async function begin({ ann, database }: Talk, state: State, word: Word): Promise<Case> {
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  const made: Case = { state, word, session, watcher, refused: null }
  if (state === 'free') return made
  await ann.send(session, first(made), 'm0')
  await watcher.until(({ type }) => type === (state === 'backing off' ? 'attempt.ended' : 'chunk'))
  if (state === 'queued behind') await ann.send(session, 'between', 'm1')
  if (state === 'being stopped') await markAsStopping(database, session)
  return made
}

/** As a stop leaves it that has seen it move thrice, or whose process died (TRANSITIONS, "Stop"). */
async function markAsStopping(database: string, session: string): Promise<void> {
  await queryOnce(database, `update holdfast.turns set stopping = 'bob' where session_id = $1 and state = 'running'`, [
    session,
  ])
}

async function sendThen({ ann }: Talk, made: Case): Promise<void> {
  made.refused = await refusedWith(ann.send(made.session, then(made), 'm1b', { whenBusy: made.word }))
}

async function expectOutcomes({ ann, provider }: Talk, made: Case): Promise<void> {
  const { state, word, session, watcher } = made
  const isRefused = word === 'reject' && state !== 'free'
  expect([state, word, made.refused]).toEqual([state, word, isRefused ? 'busy' : null])
  const sent = [
    ...(state === 'free' ? [] : ['m0']),
    ...(state === 'queued behind' ? ['m1'] : []),
    ...(isRefused ? [] : ['m1b']),
  ]
  for (const id of sent) await watcher.outcome(id)
  const isStopped = state === 'being stopped' || (word === 'interrupt' && state !== 'free')
  const outcomes = watcher.frames.flatMap(({ type, data }) => {
    if (type === 'message.stopped') return [`${data.userMessageId} stopped by ${data.by} (${data.reason ?? 'asked'})`]
    return type === 'message.ai_response' ? [`${data.message.repliesTo} complete`] : []
  })
  const why = state === 'being stopped' ? 'bob (asked)' : 'ann (interrupted)'
  expect(outcomes, `${state}, ${word}`).toEqual(
    sent.map((id) => (id === 'm0' && isStopped ? `m0 stopped by ${why}` : `${id} complete`)),
  )
  for (const id of sent) expect(outcomesOf(watcher, id)).toHaveLength(1)
  // What was refused is nowhere; of what was stopped the model is told what was stored.
  const said = isStopped ? `Half of ${first(made)}` : `Half of ${first(made)}, whole.`
  const told = provider.requests.filter(({ body }) => body.messages.at(-1).content === then(made))
  expect(told).toHaveLength(isRefused ? 0 : 1)
  if (state !== 'backing off' && state !== 'free' && !isRefused) {
    const contents = told[0]!.body.messages.map(({ content }: { content: string }) => content)
    expect(contents.slice(0, 2)).toEqual([first(made), said])
  }
  const { messages } = await ann.snapshot(session)
  expect(messages.filter(({ role }) => role === 'user').map(({ id }) => id)).toEqual(sent)
  await watcher.close()
  expect(watcher.problems).toEqual([])
}

test('on a lane that is free, busy, backing off or being stopped each word does what it says (R4.3, I2, I11, I13)', async () => {
  const talk = await openTalk()
  const states: State[] = ['free', 'queued behind', 'running', 'being stopped', 'backing off']
  const all = await Promise.all(states.flatMap((state) => words.map((word) => begin(talk, state, word))))
  await Promise.all(all.map((made) => sendThen(talk, made)))
  talk.mend()
  for (const made of all) talk.goOn(first(made))
  for (const made of all) await expectOutcomes(talk, made)
  await talk.watcher.close()
})

const owners: { state: State; leave(owner: TestServer): unknown }[] = [
  { state: 'owner dead', leave: (owner) => owner.kill() },
  { state: 'owner paused', leave: (owner) => owner.signal('SIGSTOP') },
]

test.each(owners)(
  'on a lane whose $state each word does what it says, and who comes back changes nothing (FP1, FP4, I3, I9, I11)',
  async ({ state, leave }) => {
    const talk = await openTalk({ HOLDFAST_ROLES: 'http' })
    const owner = await talk.start({ env: { HOLDFAST_ROLES: 'runner' } })
    const all = await Promise.all(words.map((word) => begin(talk, state, word)))
    await leave(owner)
    await Promise.all(all.map((made) => sendThen(talk, made)))
    for (const made of all) talk.goOn(first(made))
    await talk.start({ env: { HOLDFAST_ROLES: 'runner' } })
    if (state === 'owner paused') {
      // Those that are not stopped are taken over first.
      await all[0]!.watcher.outcome('m0')
      owner.signal('SIGCONT')
      await owner.line(/stale write refused/)
    }
    for (const made of all) await expectOutcomes(talk, made)
    await talk.watcher.close()
  },
)
