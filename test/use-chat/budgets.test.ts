/** A reply that has used up its budget, over an unmodified `useChat` of both majors: an error, and `regenerate()` or another message (P80, P81, P86, P117). */

import { lastAssistantMessageIsCompleteWithApprovalResponses as approved6 } from 'ai'
import { lastAssistantMessageIsCompleteWithApprovalResponses as approved7, WebSocketChatTransport } from 'ai7'
import { describe, expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { holdfastTransport } from '../../src/ai-sdk/transport.ts'
import { answer, call, callsIn, openAsking, waits } from '../control/asking.ts'
import { ofType } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { tokenOf } from '../support/server.ts'
import { type SdkChat, sdkChat, textOf } from './sdk.ts'

const used = /used the 2 steps that it may have.*Regenerate lets it go on/
const until = (holds: () => boolean) => eventually(async () => holds(), 8_000)
const callsOf = (chat: SdkChat) => callsIn(chat.messages.at(-1)!.parts as never)
const done = (count: number) =>
  Array.from({ length: count }, (_, at) => [`k${at + 1}`, 'output-available', { of: 'look' }])

describe.each([6, 7] as const)('AI SDK %s', (major) => {
  const open = async () => {
    const scene = await openAsking(
      major,
      ['k1', 'k2', 'k3'].map((id) => [call(id, 'look')]),
      { stepsMax: 2 },
    )
    const page = (options: object = {}) =>
      sdkChat(major, {
        url: scene.url,
        id: scene.session,
        headers: { 'x-ai-sdk': String(major) },
        ...options,
      })
    return { ...scene, page }
  }

  test('the stream ends with what is used up, and regenerate() lets it go on and tells the reply whole', async () => {
    const { page, provider, runs, watcher, ann, session } = await open()
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    expect(chat.status).toBe('error')
    expect(chat.error!.message).toMatch(used)
    expect(callsOf(chat)).toEqual(done(2))
    await chat.regenerate()
    expect(chat.status).toBe('ready')
    expect(chat.error).toBeUndefined()
    expect(chat.messages).toHaveLength(2)
    expect(callsOf(chat)).toEqual(done(3))
    const stored = (await ann.snapshot(session)).messages.at(-1)!
    expect(chat.messages[1]!.id).toBe(stored.id)
    expect(textOf(chat.messages[1])).toBe(textOf(stored as never))
    expect(textOf(chat.messages[1])).toMatch(/Told: 3\.$/)
    expect(runs).toHaveLength(3)
    expect(provider.requests).toHaveLength(4)
    expect(ofType(watcher, 'approval.answered').map(({ data }) => [data.by, data.approved])).toEqual([['ann', true]])
  })

  test('a page that is loaded meanwhile shows what is stored, and may let it go on, too (P84)', async () => {
    const { page, chat: server, session, provider } = await open()
    await (await page()).sendMessage({ text: 'hi' })
    const messages = await server.messages.forUseChat(session, { userId: 'ann' })
    const later = await page({ messages })
    await later.resumeStream()
    expect(later.status).toBe('ready')
    expect(callsOf(later)).toEqual(done(2))
    await later.regenerate({ messageId: messages[1]!.id })
    expect(callsOf(later)).toEqual(done(3))
    expect(provider.requests).toHaveLength(4)
  })

  test('two pages ask at once: it goes on once, and both are told the whole reply', async () => {
    const { page, provider, watcher, session, chat: server } = await open()
    const one = await page()
    await one.sendMessage({ text: 'hi' })
    const other = await page({ messages: await server.messages.forUseChat(session, { userId: 'ann' }) })
    await Promise.all([one.regenerate(), other.regenerate()])
    for (const each of [one, other]) expect([each.status, callsOf(each)]).toEqual(['ready', done(3)])
    expect(ofType(watcher, 'approval.answered')).toHaveLength(1)
    expect(provider.requests).toHaveLength(4)
  })

  test('who may only read may not let it go on, and after a no elsewhere regenerate() writes another reply (I15)', async () => {
    const { page, database, session, ann, watcher, chat: server } = await open()
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    await queryOnce(
      database,
      `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', $1, 'rita', 'reader')`,
      [session],
    )
    const reading = await page({
      user: 'rita',
      messages: await server.messages.forUseChat(session, { userId: 'rita' }),
    })
    await reading.regenerate()
    expect(reading.status).toBe('error')
    const { data } = await waits(watcher)
    const { turns } = await ann.snapshot(session)
    expect(turns).toMatchObject([{ state: 'waiting' }])
    await answer(ann, session, 'approvals', data.turn.approvals[0].id, { approved: false })
    const refused = (await ann.snapshot(session)).messages.at(-1)!
    expect(refused.status).toBe('stopped')
    await chat.regenerate()
    // A reply of its own, with a budget of its own.
    expect(chat.error!.message).toMatch(used)
    expect(chat.messages.at(-1)!.id).not.toBe(refused.id)
  })

  test('an answer in the page whose step was the last one ends in the same way, in the same message', async () => {
    const { url, session, provider, runs } = await openAsking(major, [[call('k1', 'book')]], { stepsMax: 1 })
    const page = await sdkChat(major, {
      url,
      id: session,
      headers: { 'x-ai-sdk': String(major) },
      sendAutomaticallyWhen: major === 6 ? approved6 : approved7,
    })
    await page.sendMessage({ text: 'hi' })
    const { approval } = page.messages[1]!.parts.find(({ toolCallId }) => toolCallId === 'k1') as unknown as {
      approval: { id: string }
    }
    await page.addToolApprovalResponse({ id: approval.id, approved: true })
    await until(() => page.status === 'error')
    expect(page.error!.message).toMatch(/used the one step/)
    expect(page.messages).toHaveLength(2)
    expect(callsOf(page)).toEqual([['k1', 'output-available', { of: 'book' }]])
    expect(provider.requests).toHaveLength(1)
    await page.regenerate()
    expect(page.status).toBe('ready')
    expect(textOf(page.messages[1])).toMatch(/Told: 1\.$/)
    expect(runs).toHaveLength(1)
  })

  test('another message is the no: what was said is kept, and it runs at once, told of that (P80, I11)', async () => {
    const { page, provider, ann, session, watcher } = await open()
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    expect(chat.error!.message).toMatch(used)
    await chat.sendMessage({ text: 'something else' })
    expect(chat.status).toBe('ready')
    // Two results stood in what it was told; the third is its own.
    expect(textOf(chat.messages.at(-1))).toMatch(/Told: 3\.$/)
    expect(provider.requests).toHaveLength(4)
    const { messages } = await ann.snapshot(session)
    expect(messages.map(({ role, status }) => [role, status])).toEqual([
      ['user', 'complete'],
      ['assistant', 'stopped'],
      ['user', 'complete'],
      ['assistant', 'complete'],
    ])
    expect(callsIn(messages[1]!.parts as never)).toEqual(done(2))
    const stopped = await watcher.until(({ type }) => type === 'message.stopped')
    expect([stopped.data.by, stopped.data.reason]).toEqual(['ann', 'interrupted'])
    expect(watcher.problems).toEqual([])
  })

  test('two devices send at once: it is stopped once, and both are answered one after the other (I2)', async () => {
    const { page, session, ann, chat: server } = await open()
    const one = await page()
    await one.sendMessage({ text: 'hi' })
    const other = await page({ messages: await server.messages.forUseChat(session, { userId: 'ann' }) })
    await Promise.all([one.sendMessage({ text: 'one' }), other.sendMessage({ text: 'other' })])
    for (const each of [one, other]) {
      expect([each.status, textOf(each.messages.at(-1))]).toEqual(['ready', expect.stringMatching(/Told: 3\.$/)])
    }
    const replies = (await ann.snapshot(session)).messages.filter(({ role }) => role === 'assistant')
    expect(replies.map(({ status }) => status)).toEqual(['stopped', 'complete', 'complete'])
  })

  test('holdfastTransport: another message is the no, too', async () => {
    const { url, session, watcher } = await open()
    const headers = async () => ({ authorization: `Bearer ${await tokenOf('ann')}` })
    const chat = await sdkChat(major, {
      url,
      id: session,
      transport: holdfastTransport({ api: url, headers, sdk: major }),
    })
    await chat.sendMessage({ text: 'hi' })
    expect(chat.error!.message).toMatch(used)
    await chat.sendMessage({ text: 'something else' })
    expect([chat.status, textOf(chat.messages.at(-1))]).toEqual(['ready', expect.stringMatching(/Told: 3\.$/)])
    await until(() => ofType(watcher, 'message.stopped').length === 1)
  })

  test('holdfastTransport: the same, and the page beside it shows what is stored meanwhile', async () => {
    const { url, session, provider } = await open()
    const headers = async () => ({ authorization: `Bearer ${await tokenOf('ann')}` })
    const beside = holdfastTransport({ api: url, headers })
    const seen: string[] = []
    onTestFinished(
      beside.follow(session, (messages, isRunning) => {
        seen.push(`${callsIn(messages.at(-1)?.parts ?? []).length}${isRunning ? ' …' : ''}`)
      }),
    )
    const transport = holdfastTransport({ api: url, headers, sdk: major })
    const chat = await sdkChat(major, { url, id: session, transport })
    await chat.sendMessage({ text: 'hi' })
    expect(chat.error!.message).toMatch(used)
    await until(() => seen.at(-1) === '2')
    await chat.regenerate()
    expect([chat.status, callsOf(chat)]).toEqual(['ready', done(3)])
    await until(() => seen.at(-1) === '3')
    expect(provider.requests).toHaveLength(4)
  })
})

describe('over a WebSocket (P105)', () => {
  const open = async () => {
    const scene = await openAsking(
      7,
      ['k1', 'k2', 'k3'].map((id) => [call(id, 'look')]),
      { stepsMax: 2 },
    )
    const headers = { authorization: `Bearer ${await tokenOf('ann')}` }
    class SignedIn extends WebSocket {
      constructor(address: string | URL, protocols?: string | string[]) {
        super(address, protocols, { headers })
        onTestFinished(() => this.terminate())
      }
    }
    const transport = new WebSocketChatTransport({ url: `${scene.url}/api/chat/ws`, webSocket: SignedIn as never })
    const chat = await sdkChat(7, { url: scene.url, id: scene.session, transport })
    await chat.sendMessage({ text: 'hi' })
    expect(chat.error!.message).toMatch(used)
    return { ...scene, page: chat }
  }

  test('it is told in the same way', async () => {
    const { page, provider } = await open()
    await page.regenerate()
    expect([page.status, callsOf(page)]).toEqual(['ready', done(3)])
    expect(provider.requests).toHaveLength(4)
  })

  test('another message is the no', async () => {
    const { page, provider } = await open()
    await page.sendMessage({ text: 'something else' })
    expect([page.status, textOf(page.messages.at(-1))]).toEqual(['ready', expect.stringMatching(/Told: 3\.$/)])
    expect(provider.requests).toHaveLength(4)
  })
})

describe('what is sent beside a question', () => {
  const calls = ['k1', 'k2', 'k3', 'k4', 'k5'].map((id) => [call(id, 'look')])
  const post = async ({ url, session }: { url: string; session: string }, id: string, more: object = {}) => {
    const response = await fetch(`${url}/api/chat`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${await tokenOf('ann')}`,
        'content-type': 'application/json',
        accept: 'application/json',
      },
      body: JSON.stringify({
        id: session,
        messages: [{ id, role: 'user', parts: [{ type: 'text', text: id }] }],
        trigger: 'submit-message',
        ...more,
      }),
    })
    return response.status
  }
  const statesOf = async ({ ann, session }: Awaited<ReturnType<typeof openAsking>>) => {
    const { turns } = await ann.snapshot(session)
    return turns.map(({ messageId, state }) => [messageId, state])
  }

  test('a message that is sent again is not the no to its own question (I10)', async () => {
    const scene = await openAsking(7, calls, { stepsMax: 2 })
    await post(scene, 'm1')
    await waits(scene.watcher)
    expect(await Promise.all([post(scene, 'm2'), post(scene, 'm2'), post(scene, 'm2')])).toEqual([200, 200, 200])
    await waits(scene.watcher, 2)
    expect(await post(scene, 'm2')).toBe(200)
    expect(await statesOf(scene)).toEqual([['m2', 'waiting']])
    expect(ofType(scene.watcher, 'message.stopped').map(({ data }) => data.userMessageId)).toEqual(['m1'])
  })

  test("one that says whenBusy 'reject' finds no lane busy that only asks about a budget (P33)", async () => {
    const scene = await openAsking(7, calls, { stepsMax: 2 })
    await post(scene, 'm1')
    await waits(scene.watcher)
    expect(await post(scene, 'm2', { whenBusy: 'reject' })).toBe(200)
    await waits(scene.watcher, 2)
    expect(await statesOf(scene)).toEqual([['m2', 'waiting']])
  })

  test('one beyond what may be sent stops nothing (P35)', async () => {
    const scene = await openAsking(7, calls, { stepsMax: 2, limits: { sendsPerMinute: 1 } })
    await post(scene, 'm1')
    await waits(scene.watcher)
    expect(await post(scene, 'm2')).toBe(429)
    expect(await statesOf(scene)).toEqual([['m1', 'waiting']])
  })

  test('regenerate() beyond what may be sent says so, and lets nothing go on (P35)', async () => {
    const scene = await openAsking(7, calls, { stepsMax: 2, limits: { sendsPerMinute: 1 } })
    const page = await sdkChat(7, { url: scene.url, id: scene.session, headers: { 'x-ai-sdk': '7' } })
    await page.sendMessage({ text: 'hi' })
    expect(page.error!.message).toMatch(used)
    await page.regenerate()
    expect(page.error!.message).toMatch(/At most 1 messages a minute/)
    expect((await scene.ann.snapshot(scene.session)).turns).toMatchObject([{ state: 'waiting' }])
  })

  test('on /v1 it waits, where clients can show the question, and so it does behind an approval', async () => {
    const budget = await openAsking(7, calls, { stepsMax: 2 })
    await post(budget, 'm1')
    await waits(budget.watcher)
    await budget.ann.send(budget.session, 'm2', 'm2')
    expect(await statesOf(budget)).toEqual([
      ['m1', 'waiting'],
      ['m2', 'queued'],
    ])
    const approval = await openAsking(7, [[call('k1', 'book')]])
    await post(approval, 'm1')
    await waits(approval.watcher)
    await post(approval, 'm2')
    expect(await statesOf(approval)).toEqual([
      ['m1', 'waiting'],
      ['m2', 'queued'],
    ])
  })
})
