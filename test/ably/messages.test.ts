/** What is asked of Ably for events and chunks, and what is done about its answers, against a stub of Ably at the wire. */
import { expect, onTestFinished, test } from 'vitest'
import { createMessages } from '../../src/ably/messages.ts'
import { createRest } from '../../src/ably/rest.ts'
import type { Item } from '../../src/core/following.ts'
import { eventually } from '../support/eventually.ts'
import { key, type Stub, startStub } from './stub.ts'

async function open(rules?: { mutableMessages?: boolean }) {
  const stub = await startStub(rules)
  onTestFinished(() => stub.close())
  const messages = createMessages({ rest: createRest({ key, endpoint: stub.endpoint }), bytesMax: 65_536 })
  const lines: string[] = []
  const publish = (items: Item[], signal = new AbortController().signal) =>
    messages.publish(['trip'], 'e', items, signal, (line) => lines.push(line))
  return { stub, messages, publish, lines }
}

const run = (index: number): Item => ({
  cursor: '',
  run: { turnId: 'u', messageId: 'm', position: 3, audience: null, attempt: 1, index, n: 1, json: `["${index}"]` },
})
const indexesIn = ({ published }: Stub) =>
  published.map(({ data }) => [...data.matchAll(/"index":(\d+)/g)].map(([, index]) => Number(index)))
const appendsAsked = ({ requests }: Stub) => requests.filter((each) => each.startsWith('PATCH')).length

test('where the message that was appended to is gone (40400) another one is begun, and grows', async () => {
  const { stub, publish, lines } = await open()
  await publish([run(0)])
  stub.refuse({ code: 40_400, status: 404 })
  await publish([run(1)])
  await publish([run(2)])
  expect(indexesIn(stub)).toEqual([[0], [1, 2]])
  expect(lines).toEqual([])
})

test('without the right to append (40160) chunks are messages of their own, and the log says once what is missing', async () => {
  const { stub, messages, publish, lines } = await open()
  await publish([run(0)])
  expect(messages.chunksEveryMs()).toBe(40)
  stub.refuse({ code: 40_160, status: 401 })
  await publish([run(1)])
  await publish([run(2)])
  expect(indexesIn(stub)).toEqual([[0], [1], [2]])
  expect(messages.chunksEveryMs()).toBe(100)
  expect(appendsAsked(stub)).toBe(1)
  expect(lines).toEqual([expect.stringContaining('message-update-any')])
})

test('chunks whose answer was lost are sent again with what came meanwhile: none is passed over as taken (I5, P183)', async () => {
  const { stub, publish } = await open({ mutableMessages: false })
  const cut = new AbortController()
  stub.answerAfter(() => new Promise(() => undefined))
  const lost = expect(publish([run(0), run(1)], cut.signal)).rejects.toThrow('no answer')
  await eventually(async () => stub.published.length === 1)
  cut.abort()
  await lost
  stub.answerAfter(() => Promise.resolve())
  await publish([run(0), run(1), run(2), run(3)])
  // The same again is taken once.
  await publish([run(0), run(1), run(2), run(3)])
  expect(indexesIn(stub)).toEqual([
    [0, 1],
    [0, 1, 2, 3],
  ])
})

test('what is sent again within two minutes is taken once, later twice, alike and with its seq (P182)', async () => {
  const { stub, publish } = await open()
  const event: Item = {
    cursor: '',
    event: { seq: 1, type: 'app.said', turnId: null, position: null, attempt: null, audience: null, at: '', json: '1' },
  }
  await publish([event])
  stub.later(119_000)
  await publish([event])
  expect(stub.published).toHaveLength(1)
  stub.later(2_000)
  await publish([event])
  const [first, again, ...others] = stub.published.map(({ serial: _, ...rest }) => rest)
  expect(others).toEqual([])
  expect(again).toEqual(first)
  expect(again).toMatchObject({ extras: { headers: { seq: '1' } } })
})

test.each([
  ['each another id', ['a', 'b'], 400],
  ['one without an id', ['a:0', undefined], 400],
  ['places that are not theirs', ['a:1', 'a:0'], 400],
  ['an empty id', [''], 400],
  ['one base and their places', ['a:0', 'a:1'], 201],
])('the stub refuses as Ably does: several messages with %s are answered %3$s', async (_what, ids, status) => {
  const { stub } = await open()
  const { status: answered } = await fetch(`${stub.endpoint}/channels/trip/messages`, {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(key).toString('base64')}` },
    body: JSON.stringify(ids.map((id) => ({ name: 'x', data: 'y', ...(id === undefined ? {} : { id }) }))),
  })
  expect(answered).toBe(status)
  expect(stub.published).toHaveLength(status === 201 ? ids.length : 0)
})

test('an event that Ably refuses, and word of which it refuses, holds nothing up, and the log names it', async () => {
  const { stub, publish, lines } = await open()
  const event = (seq: number): Item => ({
    cursor: '',
    event: { seq, type: 'app.said', turnId: null, position: null, attempt: null, audience: null, at: '', json: '{}' },
  })
  stub.refuse({ code: 40_000, status: 400 }, { code: 40_000, status: 400 })
  await publish([event(1)])
  await publish([event(2)])
  expect(stub.published.map(({ id }) => id)).toEqual(['e-2'])
  expect(lines).toEqual([expect.stringContaining('Ably refuses an event')])
})
