/** What is kept of a step whose tools had begun, and how the model is asked to go on with it. */
import { expect, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { callsWithoutResult, lastStep, withCallsToRun, withResults } from '../../src/core/open-step.ts'

const marker: Part = { type: 'step-start' }
const call = (toolCallId: string, more: Partial<Part> = {}): Part => ({
  type: 'tool-look',
  toolCallId,
  state: 'input-available',
  input: { a: 1 },
  ...more,
})
const output = (value: string) => ({ type: '', state: 'output-available', output: value })

test('a kept step has its results, ends its texts where they are, and forgets calls whose input had not come to its end', () => {
  const before = [marker, { type: 'text', text: 'one', state: 'streaming' }, call('k0', { state: 'input-streaming' })]
  const open = [
    marker,
    { type: 'text', text: 'two', state: 'streaming' },
    call('k1'),
    call('k2'),
    call('k3', { state: 'input-streaming' }),
    call('k7'),
    call('k4', { state: 'output-available', output: 'half', preliminary: true }),
    call('k5', { state: 'output-available', output: 'half', preliminary: true }),
    { type: 'dynamic-tool', toolName: 'x', toolCallId: 'k6', state: 'approval-responded', input: 1 },
  ]
  const results = new Map<string, Part>([
    ['k1', output('done')],
    ['k4', output('whole')],
    ['k6', { type: '', state: 'output-error', errorText: 'no' }],
  ])
  expect(withResults([...before, ...open], results, ({ toolCallId }) => toolCallId !== 'k7')).toEqual([
    ...before,
    marker,
    { type: 'text', text: 'two', state: 'done' },
    call('k1', { state: 'output-available', output: 'done' }),
    call('k2'),
    call('k4', { state: 'output-available', output: 'whole' }),
    call('k5'),
    { type: 'dynamic-tool', toolName: 'x', toolCallId: 'k6', state: 'output-error', input: 1, errorText: 'no' },
  ])
})

test('a result whose chunk was taken already is not given a second time', () => {
  const parts = [marker, call('k1', { state: 'output-available', output: 'as shown' })]
  expect(withResults(parts, new Map([['k1', output('as stored')]]), () => true)).toEqual(parts)
})

test('what has still to run is what the app answers, and of the last step only', () => {
  const parts = [
    marker,
    call('k1'),
    marker,
    call('k2'),
    call('k3', { providerExecuted: true }),
    call('k4', { state: 'output-available', output: 1 }),
  ]
  expect(callsWithoutResult(lastStep(parts)).map(({ toolCallId }) => toolCallId)).toEqual(['k2'])
  const told = withCallsToRun(parts)
  expect(told[3]).toEqual(call('k2', { state: 'approval-responded', approval: { id: 'kept-k2', approved: true } }))
  expect(told.filter((part, at) => part !== parts[at])).toHaveLength(1)
})

test('parts before any step are a step, too', () => {
  expect(callsWithoutResult(lastStep([call('k1')]))).toHaveLength(1)
})
