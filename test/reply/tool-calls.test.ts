/** What becomes of calls that are not as usual: ids, results, tools and steps of every kind, AI SDK 6 and 7. */
import { describe, expect, onTestFinished, test } from 'vitest'
import type { Part } from '../../src/core/chunk.ts'
import { createHoldfast, type Reply, ReplyError } from '../../src/index.ts'
import { answer, call, callsIn, openAsking, partsIn, replyOf, resultsIn, waits } from '../control/asking.ts'
import { gate, textIn } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { onPoint } from '../support/points.mjs'
import { queryOnce } from '../support/postgres.ts'
import { jwtSecret } from '../support/server.ts'

describe.each([6, 7] as const)('AI SDK %s', (major) => {
  test('a new call with the id of one that was refused is its own: nobody is asked about it, and it runs', async () => {
    const read = gate()
    const steps = [[call('call_0', 'book')], [call('call_0', 'look')]]
    const { ann, session, watcher, runs } = await openAsking(major, steps, {
      change: (tools) => ({
        ...tools,
        look: Object.assign((tools as { look: object }).look, {
          needsApproval: () => {
            read.open()
            return false
          },
        }),
      }),
    })
    await ann.send(session, 'hi', 'm1')
    const { data } = await waits(watcher)
    // The step of the call has not been taken when the SDK reads the next one.
    const takeBack = onPoint('checkpoint.send', () => read.passed)
    onTestFinished(() => void takeBack())
    await answer(ann, session, 'approvals', data.turn.approvals[0].id, { approved: false })
    expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([
      ['call_0', 'output-denied'],
      ['call_0', 'output-available', { of: 'look' }],
    ])
    expect(runs.map(({ name }) => name)).toEqual(['look'])
  })

  test('a call of a reply that ended for its length is closed as not run, and later turns of the session work', async () => {
    const { ann, session, watcher, runs, provider } = await openAsking(major, [])
    provider.script(({ index }) => (index === 0 ? [call('k1', 'look'), { finish: 'length' }] : [{ text: 'Short.' }]))
    await ann.send(session, 'hi', 'm1')
    const outcome = await watcher.outcome('m1')
    expect(outcome.type).toBe('message.ai_response')
    const closed = [['k1', 'output-error', 'It was not run, because the reply ended before.']]
    expect(callsIn(partsIn(outcome))).toEqual(closed)
    expect(runs).toEqual([])
    await ann.send(session, 'and now?', 'm2')
    expect(textIn(await watcher.outcome('m2'))).toBe('Short.')
    expect(resultsIn(provider.requests[1]!)).toEqual([['k1', closed[0]![2]]])
  })

  test('a result that cannot be stored is no failure to run: the model is told that it ran, and it never runs again', async () => {
    const circular: { self?: unknown } = {}
    circular.self = circular
    const { ann, session, watcher, runs, provider, chat, database } = await openAsking(major, [[call('k1', 'look')]], {
      execute: () => circular,
    })
    provider.script(({ index }) => [[call('k1', 'look')], [{ hang: true as const }]][index] ?? [{ text: 'It ran.' }])
    await ann.send(session, 'hi', 'm1')
    await watcher.until(({ type }) => type === 'attempt.started')
    await provider.nextRequest()
    await provider.nextRequest()
    await Promise.all([chat.close(), watcher.close()])
    const execute = () => runs.push({ name: 'again', input: null, toolCallId: '' })
    const next = createHoldfast({
      database,
      tokens: { secret: jwtSecret },
      log: () => undefined,
      drainMs: 0,
      reply: replyOf(major, provider.url, execute),
    })
    onTestFinished(() => next.close())
    const sent = await next.send(session, { id: 'm1', text: 'hi', userId: 'ann', waitMs: 50_000 })
    expect(sent.reply!.status).toBe('complete')
    expect(callsIn((sent.reply as { parts: Part[] }).parts)).toEqual([['k1', 'output-error', 'An error occurred.']])
    expect(runs.map(({ name }) => name)).toEqual(['look'])
    const [[, told]] = resultsIn(provider.requests[1]!) as [[string, string]]
    expect(told).toMatch(/^(?:Error: )?look has run, but its result cannot be stored: .*holds itself/)
  })

  test('what JSON cannot carry but is no circle is a result all the same', async () => {
    const { ann, session, watcher, runs } = await openAsking(major, [[call('k1', 'look')]], {
      execute: () => ({ count: 12345678901234567890n, more: () => 1 }),
    })
    await ann.send(session, 'hi', 'm1')
    const outcome = await watcher.outcome('m1')
    expect(callsIn(partsIn(outcome))).toEqual([['k1', 'output-available', { count: '12345678901234567890' }]])
    expect(textIn(outcome)).toBe('Let me see.\n\nTold: 1.')
    expect(runs).toHaveLength(1)
  })

  test('an id that is too long ends the reply, before its call runs', async () => {
    const { ann, session, watcher, runs, provider, database } = await openAsking(major, [
      [call('k'.repeat(512), 'look')],
      [call('k'.repeat(513), 'look')],
    ])
    await ann.send(session, 'hi', 'm1')
    expect((await watcher.outcome('m1')).data).toMatchObject({ code: 'internal', canRetry: true })
    expect(runs).toHaveLength(1)
    expect(provider.requests).toHaveLength(2)
    expect(await queryOnce(database, 'select from holdfast.tool_calls')).toHaveLength(1)
  })

  test.each(['begin_call', 'end_call'])(
    'an error of our own store in %s ends the attempt, and no model is told it',
    async (name) => {
      const { ann, session, watcher, provider, database, runs } = await openAsking(major, [[call('k1', 'look')]])
      await queryOnce(database, `alter function holdfast.${name} rename to gone`)
      await ann.send(session, 'hi', 'm1')
      const outcome = await watcher.outcome('m1')
      expect(outcome.data).toMatchObject({ code: 'internal', canRetry: true })
      expect(provider.requests).toHaveLength(1)
      expect(runs).toHaveLength(name === 'begin_call' ? 0 : 1)
      expect(JSON.stringify(outcome.data)).not.toContain(name)
    },
  )

  test('tools that are instances of a class, in a set that is one, keep what they inherit', async () => {
    class Looking {
      readonly #said = 'a look'
      readonly told: string[] = []
      readonly inner: { inputSchema: unknown; execute: (input: unknown, options: object) => unknown }
      constructor(inner: object) {
        this.inner = inner as Looking['inner']
      }
      get inputSchema() {
        return this.inner.inputSchema
      }
      get description() {
        return 'inherited'
      }
      onInputAvailable() {
        this.told.push('input')
      }
      needsApproval() {
        return this.told.length > 1
      }
      execute(input: unknown, options: object) {
        this.inner.execute(input, options)
        return [this.#said, ...this.told]
      }
    }
    class Tools {
      readonly look: Looking
      constructor(look: object) {
        this.look = new Looking(look)
        Object.freeze(this.look)
      }
    }
    const { ann, session, watcher, runs, provider } = await openAsking(major, [[call('k1', 'look')]], {
      change: (tools) => new Tools((tools as unknown as Tools).look) as never,
    })
    await ann.send(session, 'hi', 'm1')
    expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([['k1', 'output-available', ['a look', 'input']]])
    expect(runs).toHaveLength(1)
    const { name, description, parameters } = provider.requests[0]!.body.tools[0].function
    expect({ name, description }).toEqual({ name: 'look', description: 'inherited' })
    expect(Object.keys(parameters.properties)).toEqual(['place'])
  })
})

test('a tool that its set inherits runs stored as any other, and is told to the model as little as before', async () => {
  const names: string[][] = []
  const reply: Reply = async function* ({ tools }) {
    const set = tools(Object.create({ look: { execute: async () => 'seen' } }) as { look: { execute: Execute } })
    names.push(Object.keys(set))
    yield { type: 'start-step' }
    yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: 'a' }
    const output = (await set.look.execute('a', { toolCallId: 'k1' })) as string
    yield { type: 'tool-output-available', toolCallId: 'k1', output }
    yield { type: 'finish-step' }
    yield { type: 'finish', finishReason: 'stop' }
  }
  const { ann, session, watcher, database } = await openChat({ reply })
  await ann.send(session, 'hi', 'm1')
  expect((await watcher.outcome('m1')).type).toBe('message.ai_response')
  expect(names).toEqual([[]])
  expect(await queryOnce(database, 'select state from holdfast.tool_calls')).toEqual([{ state: 'done' }])
})
type Execute = (input: unknown, options: { toolCallId: string }) => unknown

test('of a call that had begun when its reply finished it is not said that it was not run', async () => {
  const begun = gate()
  const takeBack = onPoint('tool.begun', () => begun.open())
  onTestFinished(() => void takeBack())
  const reply: Reply = async function* ({ tools, signal }) {
    const { look } = tools({
      look: { execute: () => new Promise((resolve) => signal.addEventListener('abort', resolve)) },
    })
    yield { type: 'start-step' }
    yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: 1 }
    const running = (look.execute as Execute)(1, { toolCallId: 'k1' }) as Promise<unknown>
    running.catch(() => undefined)
    await begun.passed
    yield { type: 'finish-step' }
    yield { type: 'finish', finishReason: 'stop' }
  }
  const { ann, session, watcher } = await openChat({ reply })
  await ann.send(session, 'hi', 'm1')
  expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([
    ['k1', 'output-error', 'The reply ended before this call had a result.'],
  ])
})

test('an input that was being written when a reply finished is closed, too', async () => {
  const reply: Reply = async function* () {
    yield { type: 'start-step' }
    yield { type: 'tool-input-start', toolCallId: 'k1', toolName: 'look' }
    yield { type: 'tool-input-delta', toolCallId: 'k1', inputTextDelta: '{"a":' }
    yield { type: 'tool-input-available', toolCallId: 'k2', toolName: 'search', input: 1, providerExecuted: true }
    yield { type: 'finish-step' }
    yield { type: 'finish', finishReason: 'length' }
  }
  const { ann, session, watcher } = await openChat({ reply })
  await ann.send(session, 'hi', 'm1')
  expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([
    ['k1', 'output-error', 'It was not run, because the reply ended before.'],
    ['k2', 'input-available'],
  ])
})

type Standing = { step: number; isOpen: boolean; parts: { toolCallId?: string; state?: string }[] }
const standingOf = async (database: string) => {
  const [row] = await queryOnce<{ checkpoint: Standing }>(database, 'select checkpoint from holdfast.turns')
  const { step, isOpen, parts } = row!.checkpoint
  return { step, isOpen, states: parts.flatMap(({ toolCallId, state }) => (toolCallId ? [state] : [])) }
}

test('a call that outlives its step: a takeover starts within that step until the result is there, and after it then (I3)', async () => {
  const ran = gate()
  const seen: unknown[] = []
  let database = ''
  const reply: Reply = async function* ({ tools }) {
    const { look } = tools({ look: { execute: async () => ran.passed.then(() => 'late') } })
    yield { type: 'start-step' }
    yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: 'a' }
    const running = (look.execute as Execute)('a', { toolCallId: 'k1' })
    await begun.passed
    yield { type: 'finish-step' }
    yield { type: 'data-note', data: 1 }
    seen.push(await standingOf(database))
    ran.open()
    const output = (await running) as string
    seen.push(await standingOf(database))
    yield { type: 'tool-output-available', toolCallId: 'k1', output }
    yield { type: 'start-step' }
    yield { type: 'finish-step' }
    yield { type: 'finish', finishReason: 'stop' }
  }
  const begun = gate()
  const takeBack = onPoint('tool.begun', () => begun.open())
  onTestFinished(() => void takeBack())
  const chat = await openChat({ reply })
  database = chat.database
  await chat.ann.send(chat.session, 'hi', 'm1')
  expect(callsIn(partsIn(await chat.watcher.outcome('m1')))).toEqual([['k1', 'output-available', 'late']])
  expect(seen).toEqual([
    { step: 0, isOpen: true, states: ['input-available'] },
    { step: 1, isOpen: false, states: ['output-available'] },
  ])
})

test('a call that outlived its step when its process ended is asked about, and does not run again by itself (I9)', async () => {
  let runs = 0
  const shown = gate()
  const begun = gate()
  const takeBack = onPoint('tool.begun', () => begun.open())
  onTestFinished(() => void takeBack())
  const reply: Reply = async function* ({ tools, messages, signal }) {
    const run = (): Promise<string> => {
      runs++
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('stopped'))))
    }
    const { look } = tools({ look: { execute: run } })
    const running = (): Promise<unknown> => (look.execute as unknown as AsyncExecute)('a', { toolCallId: 'k1' })
    if (messages.at(-1)!.role === 'assistant') await running()
    yield { type: 'start-step' }
    yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: 'a' }
    const result = running()
    await begun.passed
    yield { type: 'finish-step' }
    yield { type: 'data-note', data: 1 }
    shown.open()
    await result
    yield { type: 'finish', finishReason: 'stop' }
  }
  const { chat, ann, session, watcher, database } = await openChat({ reply })
  await ann.send(session, 'hi', 'm1')
  await shown.passed
  await Promise.all([chat.close(), watcher.close()])
  const next = createHoldfast({ database, tokens: { secret: jwtSecret }, log: () => undefined, drainMs: 0, reply })
  onTestFinished(() => next.close())
  const { turn } = await next.send(session, { id: 'm1', text: 'hi', userId: 'ann', waitMs: 50_000 })
  expect(turn).toMatchObject({ state: 'waiting', approvals: [{ kind: 'uncertain', toolCallId: 'k1' }] })
  expect(runs).toBe(1)
})
type AsyncExecute = (input: unknown, options: { toolCallId: string }) => Promise<unknown>

/** It calls once, at its beginning; an attempt that takes over calls what was kept. `first` ends the first attempt. */
const callingOnce = (
  execute: () => Promise<string>,
  first: (result: Promise<unknown>, signal: AbortSignal) => Promise<void>,
): Reply =>
  async function* ({ tools, attempt, messages, signal }) {
    const { look } = tools({ look: { execute } })
    const running = (): Promise<unknown> => (look.execute as unknown as AsyncExecute)('a', { toolCallId: 'k1' })
    if (attempt === 1) {
      yield { type: 'start-step' }
      yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: 'a' }
      const result = running()
      result.catch(() => undefined)
      await first(result, signal)
    }
    const kept = messages.at(-1)!.parts.find((part) => 'toolCallId' in part) as { output?: unknown } | undefined
    const output = (kept?.output ?? (await running())) as string
    yield { type: 'tool-output-available', toolCallId: 'k1', output }
    yield { type: 'finish-step' }
    yield { type: 'finish', finishReason: 'stop' }
  }

test('a call whose process ended in order before it ran counts as not begun: it runs then, and nobody is asked (I9)', async () => {
  let runs = 0
  const begun = gate()
  const over = gate()
  const takeBack = onPoint('tool.begun', () => {
    begun.open()
    return over.passed
  })
  onTestFinished(() => void takeBack())
  const reply = callingOnce(
    async () => `run ${++runs}`,
    async (result, signal) => {
      // Late: an end that did not wait for it would be stored by then.
      signal.addEventListener('abort', () => void queryOnce(database, 'select pg_sleep(0.2)').finally(over.open))
      await result
    },
  )
  let database = ''
  const { chat, ann, session, watcher, ...opened } = await openChat({ reply })
  database = opened.database
  await ann.send(session, 'hi', 'm1')
  await begun.passed
  expect(await queryOnce(database, 'select state, attempt from holdfast.tool_calls')).toEqual([
    { state: 'begun', attempt: 1 },
  ])
  await Promise.all([chat.close(), watcher.close()])
  expect(runs).toBe(0)
  const next = createHoldfast({ database, tokens: { secret: jwtSecret }, log: () => undefined, drainMs: 0, reply })
  onTestFinished(() => next.close())
  const { turn } = await next.send(session, { id: 'm1', text: 'hi', userId: 'ann', waitMs: 50_000 })
  expect(turn.state).toBe('complete')
  expect(runs).toBe(1)
  expect(await queryOnce(database, 'select state, attempt from holdfast.tool_calls')).toEqual([
    { state: 'done', attempt: 2 },
  ])
})

test('a provider that fails while a tool runs: its result is waited for and kept, and it does not run again', async () => {
  let runs = 0
  const begun = gate()
  const failed = gate()
  const reply = callingOnce(
    async () => {
      runs++
      begun.open()
      await failed.passed
      return 'seen'
    },
    async () => {
      await begun.passed
      // When the attempt has been told.
      setImmediate(failed.open)
      throw new ReplyError('provider_overloaded', 'in the middle')
    },
  )
  const { ann, session, watcher } = await openChat({ reply })
  await ann.send(session, 'hi', 'm1')
  expect(callsIn(partsIn(await watcher.outcome('m1')))).toEqual([['k1', 'output-available', 'seen']])
  expect(runs).toBe(1)
})

test('a checkpoint that was made before a result is not stored over the one that has it (I3)', async () => {
  const begun = gate()
  const ran = gate()
  const isDone = async (database: string) =>
    (await queryOnce(database, `select from holdfast.tool_calls where state = 'done'`)).length > 0
  let database = ''
  const points = [
    onPoint('tool.begun', () => begun.open()),
    // The tool ends while the checkpoint of its step is on its way, which is given time to be overtaken.
    onPoint('checkpoint.send', async () => {
      ran.open()
      for (let nth = 0; nth < 20 && !(await isDone(database)); nth++);
    }),
  ]
  onTestFinished(() => points.forEach((takeBack) => void takeBack()))
  let standing: unknown
  const reply: Reply = async function* ({ tools }) {
    const { look } = tools({ look: { execute: async () => ran.passed.then(() => 'late') } })
    yield { type: 'start-step' }
    yield { type: 'tool-input-available', toolCallId: 'k1', toolName: 'look', input: 'a' }
    const running = (look.execute as Execute)('a', { toolCallId: 'k1' })
    await begun.passed
    yield { type: 'finish-step' }
    yield { type: 'data-note', data: 1 }
    const output = (await running) as string
    standing = await standingOf(database)
    yield { type: 'tool-output-available', toolCallId: 'k1', output }
    yield { type: 'finish', finishReason: 'stop' }
  }
  const chat = await openChat({ reply })
  database = chat.database
  await chat.ann.send(chat.session, 'hi', 'm1')
  await chat.watcher.outcome('m1')
  expect(standing).toEqual({ step: 1, isOpen: false, states: ['output-available'] })
})
