/** `scriptedReply`: what a script makes a reply say, for which message, and what of it can be looked at. */
import { expect, inject, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { type Reply, ReplyError } from '../../src/index.ts'
import { type ScriptedReply, scriptedReply, type TestServer, testServer } from '../../src/testing/index.ts'
import { queryOnce } from '../support/postgres.ts'

async function open(reply: Reply): Promise<TestServer> {
  const server = await testServer({ database: inject('postgres').url18, reply })
  onTestFinished(() => server.close())
  await server.chat.sessions.create({ id: 'trip', userId: 'ann' })
  return server
}

let sent = 0
/** Sends a text, and answers what became of it. */
async function say(server: TestServer, text: string, id = `m${++sent}`) {
  await server.chat.send('trip', { id, userId: 'ann', text })
  return await server.outcome('trip', id)
}

const asked = ({ calls }: ScriptedReply) => calls.map(({ message, attempt }) => [textOf(message.parts), attempt])

test('a scripted failure is tried again by itself, and the message keeps its one reply (I2, I10)', async () => {
  const reply = scriptedReply(['Half a ', { fail: 'provider_overloaded', times: 1, retryAfterMs: 0 }, 'reply.'])
  const server = await open(reply)
  const { text, turn, reply: stored } = await say(server, 'Hello')
  expect({ text, attempt: turn.attempt, parts: stored.parts.length }).toEqual({
    text: 'Half a reply.',
    attempt: 2,
    parts: 2,
  })
  const ended = await server.until('trip', ({ type }) => type === 'attempt.ended')
  expect(ended.data).toMatchObject({ code: 'provider_overloaded' })
  // Each message fails so often.
  expect((await say(server, 'Again')).turn.attempt).toBe(2)
})

test('a failure for good ends the turn with its code, an error as it is classified, and a retry is another round', async () => {
  const overloaded = Object.assign(new Error('from an SDK'), { statusCode: 401 })
  const reply = scriptedReply([
    { to: 'filtered', says: [{ fail: 'content_filtered' }] },
    { to: /^key/, says: [{ fail: overloaded, times: 1 }, 'with the key'] },
    { to: ({ user }) => user.id === 'ann', says: [{ fail: new ReplyError('context_too_long', 'by hand') }] },
  ])
  const server = await open(reply)
  expect((await say(server, 'filtered')).message.error?.code).toBe('content_filtered')
  expect((await say(server, 'anything')).message.error?.code).toBe('context_too_long')
  expect((await say(server, 'key is wrong', 'k')).message.error?.code).toBe('provider_auth')
  await server.chat.retry('trip', 'k')
  const { text, turn } = await server.outcome('trip', 'k')
  expect({ text, round: turn.round }).toEqual({ text: 'with the key', round: 2 })
})

test('scripts are given in order, each to its message in all attempts; a message too many fails and the log says why', async () => {
  const reply = scriptedReply([
    ['first ', { fail: 'provider_truncated', times: 1, retryAfterMs: 0 }, 'answer'],
    ['second answer'],
  ])
  const server = await open(reply)
  const texts = [await say(server, 'one'), await say(server, 'two')].map(({ text }) => text)
  expect(texts).toEqual(['first answer', 'second answer'])
  expect((await say(server, 'three')).message.error?.code).toBe('internal')
  expect(server.lines.join('\n')).toContain('there are 2 scripts, and this is message 3.')
  expect(asked(reply)).toEqual([
    ['one', 1],
    ['one', 2],
    ['two', 1],
    ['three', 1],
  ])
  expect(reply.calls[2]!.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'user'])
})

test('a message that no script is for fails, and the log says why', async () => {
  const server = await open(scriptedReply([{ to: 'Hello', says: ['Hi.'] }]))
  expect((await say(server, 'Hello')).text).toBe('Hi.')
  expect((await say(server, 'Bye')).message.error?.code).toBe('internal')
  expect(server.lines.join('\n')).toContain('no script is for \\"Bye\\"')
})

test('chunks are written as they are, and usage is counted once (I12)', async () => {
  const reply = scriptedReply([
    'Look: ',
    { type: 'data-map', data: { at: 'sea' } },
    'there.',
    { usage: { model: 'script', inputTokens: 3, outputTokens: 4 } },
  ])
  const server = await open(reply)
  const { reply: stored } = await say(server, 'Where?')
  expect(stored.parts).toMatchObject([
    { type: 'step-start' },
    { type: 'text', text: 'Look: ' },
    { type: 'data-map', data: { at: 'sea' } },
    { type: 'text', text: 'there.' },
  ])
  expect(stored).toMatchObject({ model: 'script', outputTokens: 4 })
  const rows = await queryOnce(server.database, 'select input_tokens, output_tokens from holdfast.usage')
  expect(rows).toEqual([{ input_tokens: 3, output_tokens: 4 }])
})

test('the app’s own tool runs once: after a kill its step is kept, and the script goes on behind it (I9)', async () => {
  let runs = 0
  const tools = { book: { execute: ({ seat }: { seat: string }) => ({ seat, run: ++runs }) } }
  const reply = scriptedReply(['I book. ', { tool: 'book', input: { seat: '4A' } }, { wait: 'kill' }, 'Booked.'], {
    tools,
  })
  const server = await open(reply)
  await server.chat.send('trip', { id: 't', userId: 'ann', text: 'Book 4A' })
  await reply.reached('kill')
  await server.kill()
  await server.restart()
  await reply.reached('kill', { times: 2 })
  reply.open('kill')
  const { reply: stored } = await server.outcome('trip', 't')
  expect({ runs, steps: reply.calls.map(({ stepsDone }) => stepsDone) }).toEqual({ runs: 1, steps: [0, 1] })
  expect(stored.parts).toMatchObject([
    { type: 'step-start' },
    { type: 'text', text: 'I book. ' },
    { type: 'tool-book', state: 'output-available', output: { seat: '4A', run: 1 } },
    { type: 'step-start' },
    { type: 'text', text: 'Booked.' },
  ])
})

test('a tool that was running when its server was killed ends unheard, and a person is asked whether it may run again', async () => {
  let runs = 0
  let begun!: () => void
  const running = new Promise<void>((resolve) => {
    begun = resolve
  })
  let end!: () => void
  const ended = new Promise<void>((resolve) => {
    end = resolve
  })
  const execute = async () => {
    begun()
    await ended
    return ++runs
  }
  const server = await open(scriptedReply([{ tool: 'book' }, 'Booked.'], { tools: { book: { execute } } }))
  await server.chat.send('trip', { id: 'u', userId: 'ann', text: 'Book' })
  await running
  await server.kill()
  end()
  await server.restart()
  const { data } = await server.until('trip', ({ type }) => type === 'turn.waiting')
  const [asked] = data!.turn!.approvals!
  expect({ kind: asked!.kind, runs }).toEqual({ kind: 'uncertain', runs: 1 })
  await server.chat.approve('trip', asked!.id, { approved: true })
  const { text, reply: stored } = await server.outcome('trip', 'u')
  expect({ text, output: stored.parts[1]!.output }).toEqual({ text: 'Booked.', output: 2 })
})

test('a tool that needs approval waits for it over a kill, and runs when it is given; refused it does not', async () => {
  let runs = 0
  const tools = { book: { needsApproval: true, execute: () => ++runs } }
  const reply = scriptedReply([{ tool: 'book' }, 'Done.'], { tools })
  const server = await open(reply)
  for (const approved of [true, false]) {
    const id = `approved-${approved}`
    const { turn } = await server.chat.send('trip', { id, userId: 'ann', text: 'Book' })
    await server.until('trip', ({ type, turnId }) => type === 'turn.waiting' && turnId === turn.id)
    await server.kill()
    await server.restart()
    const { turn: waiting } = await server.chat.approve('trip', `approve-call-${turn.replyId}-0-0`, { approved })
    expect(waiting.id).toBe(turn.id)
    const { text, reply: stored } = await server.outcome('trip', id)
    expect(text).toBe('Done.')
    expect(stored.parts[1]).toMatchObject({ state: approved ? 'output-available' : 'output-denied' })
    expect(runs).toBe(1)
  }
})

test('a call with an output is answered by the script; one that is neither’s is a client’s, whose answer is waited for', async () => {
  const reply = scriptedReply([
    { tool: 'weather', input: { at: 'sea' }, output: 'rain' },
    'It rains. ',
    { tool: 'where' },
    'You are there.',
  ])
  const server = await open(reply)
  const { turn } = await server.chat.send('trip', { id: 'w', userId: 'ann', text: 'Where?' })
  await server.until('trip', ({ type }) => type === 'turn.waiting')
  await server.chat.answerTool('trip', `call-${turn.replyId}-1-0`, { output: 'at sea' })
  const { reply: stored } = await server.outcome('trip', 'w')
  expect(stored.parts).toMatchObject([
    { type: 'step-start' },
    { type: 'tool-weather', input: { at: 'sea' }, output: 'rain' },
    { type: 'step-start' },
    { type: 'text', text: 'It rains. ' },
    { type: 'tool-where', output: 'at sea' },
    { type: 'step-start' },
    { type: 'text', text: 'You are there.' },
  ])
})

test('a tool that throws is told of as an error, and the reply goes on', async () => {
  const tools = {
    book: {
      execute: () => {
        throw new Error('sold out')
      },
    },
  }
  const server = await open(scriptedReply([{ tool: 'book' }, 'Sorry.'], { tools }))
  const { text, reply: stored } = await say(server, 'Book')
  expect(text).toBe('Sorry.')
  expect(stored.parts[1]).toMatchObject({ state: 'output-error', errorText: 'sold out' })
})

test('a stop at a gate ends the attempt; a gate stays open, and one that nobody wrote or came to is told of', async () => {
  const reply = scriptedReply(['a ', { wait: 'gate' }, 'b'])
  const server = await open(reply)
  expect(() => reply.open('gaet')).toThrow('No script waits for "gaet". There are gate.')
  await expect(reply.reached('gaet')).rejects.toThrow('gaet')
  await expect(reply.reached('gate', { withinMs: 1 })).rejects.toThrow('0 came. The reply was asked for 0 times.')
  await server.chat.send('trip', { id: 's', userId: 'ann', text: 'Hi' })
  await reply.reached('gate')
  await server.chat.stop('trip', 's')
  expect((await server.outcome('trip', 's')).turn.state).toBe('stopped')
  reply.open('gate')
  expect((await say(server, 'More')).text).toBe('a b')
})
