/** A reply that is stopped in the middle of a tool (I11): the tool is told, what it answers later changes nothing, and the next turn works. */
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { callsIn } from '../control/asking.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { openScene, outcomesOf, textIn } from './scene.ts'
import { type Asked, type Plan, recordsFile, recordsIn, type Start } from './tool-plans.ts'

const program = fileURLToPath(new URL('tool-runs-server.mjs', import.meta.url))
const call = (id: string, tool: string, ms: number) => ({ id, tool, ms })
type Told = { type: string; toolCallId?: string }

test.each([
  ['6', 'book'],
  ['7', 'book'],
  ['6', 'deaf'],
  ['7', 'deaf'],
  ['own', 'deaf'],
])(
  'kind %s: stopped while %s runs, it is stored so, its late result changes nothing, and the next turn works',
  async (KIND, tool) => {
    const scene = await openScene()
    const { ann } = scene
    const records = recordsFile()
    await scene.start({ program, env: { KIND, RECORDS: records } })
    const session = await ann.createSession()
    const watcher = ann.watch(session)
    const steps = [
      { calls: [call('k0-0', 'echo', 0)] },
      { calls: [call('k1-0', tool, tool === 'deaf' ? 1_500 : 60_000)] },
    ]
    const { reply } = await ann.send(session, JSON.stringify({ run: 'r1', pauseMs: 1, steps } satisfies Plan), 'm1')
    const starts = () => recordsIn<Start>(records, 'start')
    await eventually(async () => starts().some(({ id }) => id === 'k1-0'))
    await ann.command(session, 'm1', 'stop')
    const stopped = await watcher.outcome('m1')
    expect(stopped.type).toBe('message.stopped')
    const storedReply = async () => (await ann.snapshot(session)).messages.find(({ id }) => id === reply.id)!
    const { parts, status } = await storedReply()
    expect(status).toBe('stopped')
    expect(callsIn(parts)).toEqual([
      ['k0-0', 'output-available', { of: 'k0-0' }],
      ['k1-0', 'output-error', 'stopped'],
    ])

    const next: Plan = { run: 'r2', pauseMs: 1, steps: [{ calls: [call('k0-0', 'echo', 0)] }] }
    await ann.send(session, JSON.stringify(next), 'm2')
    const outcome = await watcher.outcome('m2')
    expect(outcome.type).toBe('message.ai_response')
    expect(textIn(outcome)).toContain('Told: [["k0-0"')
    for (const { prompt } of recordsIn<Asked>(records, 'prompt').filter(({ run }) => run === 'r2')) {
      const told = prompt.flatMap(({ content }) => (typeof content === 'string' ? [] : (content as Told[])))
      const of = (kind: string) => told.filter(({ type }) => type === kind).map(({ toolCallId }) => toolCallId)
      // No call stands without its result, which providers refuse.
      expect(of('tool-result').sort()).toEqual(of('tool-call').sort())
      expect(of('tool-call')).toContain('k1-0')
    }

    if (tool === 'deaf') await eventually(async () => recordsIn<{ what: 'end' }>(records, 'end').length > 0)
    expect((await storedReply()).parts).toEqual(parts)
    const rows = await queryOnce(
      scene.database,
      `select call_id, state, output from holdfast.tool_calls where call_id = 'k1-0'`,
    )
    expect(rows).toEqual([{ call_id: 'k1-0', state: 'begun', output: null }])
    expect(starts().filter(({ id }) => id === 'k1-0')).toHaveLength(1)
    await watcher.close()
    expect(watcher.problems).toEqual([])
    expect(outcomesOf(watcher, 'm1')).toHaveLength(1)
  },
)
