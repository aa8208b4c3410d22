/** What a provider reports for an attempt that was broken off: it is in the ledger, though the report comes after the end. */
import { expect, test } from 'vitest'
import { queryOnce } from '../support/postgres.ts'
import { openScene, type Scene } from './scene.ts'

/** Anthropic's wire tells the input's tokens at the start, and here nothing ever comes after the text. */
async function broken(env: Record<string, string>): Promise<Scene> {
  const scene = await openScene()
  scene.provider.script([{ usage: { inputTokens: 1000, outputTokens: 1 } }, { text: 'The answer is ' }, { hang: true }])
  const server = await scene.start({
    env: {
      ANTHROPIC_API_KEY: 'a-key-of-the-tests',
      ANTHROPIC_BASE_URL: scene.provider.url,
      HOLDFAST_MODEL: 'anthropic/stub-1',
      ...env,
    },
  })
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  await scene.ann.send(session, 'hi', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  if (env.HOLDFAST_DRAIN_MS) await server.stop()
  else await watcher.outcome('m1')
  await watcher.close()
  await server.stop()
  return scene
}

const ledgerOf = ({ database }: Scene) =>
  queryOnce(database, 'select attempt, step, input_tokens, outcome from holdfast.usage order by attempt')

test('an attempt that is handed over has what its provider reported in the ledger (I12)', async () => {
  const scene = await broken({ HOLDFAST_DRAIN_MS: '100' })
  expect(await ledgerOf(scene)).toEqual([{ attempt: 1, step: 0, input_tokens: 1000, outcome: 'handover' }])
})

test('an attempt that made no progress has what its provider reported in the ledger (I12)', async () => {
  const env = { HOLDFAST_NO_PROGRESS_MS: '1000', HOLDFAST_ATTEMPTS_MAX: '1' }
  const scene = await broken({ ...env, HOLDFAST_ON_BUDGET: 'fail' })
  expect(await ledgerOf(scene)).toEqual([{ attempt: 1, step: 0, input_tokens: 1000, outcome: 'failed' }])
})

test('a process that is killed leaves one estimated row of the call that it had begun, and the next its own (I12)', async () => {
  const scene = await openScene()
  const said = { inputTokens: 200, outputTokens: 9 }
  scene.provider.script(() =>
    scene.provider.requests.length === 1
      ? [{ text: 'The answer is ' }, { hang: true }]
      : [{ text: 'here' }, { usage: said }],
  )
  const server = await scene.start()
  const session = await scene.ann.createSession()
  const watcher = scene.ann.watch(session)
  await scene.ann.send(session, 'hi', 'm1')
  await watcher.until(({ type }) => type === 'chunk')
  await server.kill()
  await scene.start()
  await watcher.outcome('m1')
  await watcher.close()
  const rows = await queryOnce(
    scene.database,
    'select attempt, step, state, outcome, input_tokens > 0 as read, output_tokens > 0 as wrote from holdfast.usage order by attempt',
  )
  const both = { step: 0, read: true, wrote: true }
  expect(rows).toEqual([
    { attempt: 1, ...both, state: 'estimated', outcome: 'lost' },
    { attempt: 2, ...both, state: 'reported', outcome: 'complete' },
  ])
  expect(await queryOnce(scene.database, 'select * from holdfast.usage_differences()')).toEqual([])
})
