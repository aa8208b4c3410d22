/** Approvals and clients' tools over an unmodified `useChat` of both majors (P86, P110–P116). */
import {
  lastAssistantMessageIsCompleteWithApprovalResponses as approved6,
  lastAssistantMessageIsCompleteWithToolCalls as complete6,
} from 'ai'
import {
  lastAssistantMessageIsCompleteWithApprovalResponses as approved7,
  lastAssistantMessageIsCompleteWithToolCalls as complete7,
  WebSocketChatTransport,
} from 'ai7'
import { describe, expect, onTestFinished, test } from 'vitest'
import { WebSocket } from 'ws'
import { holdfastTransport } from '../../src/ai-sdk/transport.ts'
import { answer, call, callsIn, openAsking, waits } from '../control/asking.ts'
import { queryOnce } from '../support/postgres.ts'
import { tokenOf } from '../support/server.ts'
import { approvalIn, callOf, openPages, until, whole } from './asking-pages.ts'
import { type SdkChat, sdkChat } from './sdk.ts'

const unknown = 'Interrupted: it is not known whether it ran.'

describe.each([6, 7] as const)('AI SDK %s', (major) => {
  const approves = major === 6 ? approved6 : approved7
  const completes = major === 6 ? complete6 : complete7
  const open = (steps: Parameters<typeof openPages>[1], more: object = {}) =>
    openPages(major, steps, { sendAutomaticallyWhen: approves, ...more })
  const essence = (parts: readonly { type: string; [field: string]: unknown }[]) =>
    parts.map(
      ({ type, text, toolCallId, state, input, output, errorText, approval }) =>
        JSON.parse(JSON.stringify({ type, text, toolCallId, state, input, output, errorText, approval })) as object,
    )

  test('the page shows what is asked, and what is approved there goes on in the same message, told once', async () => {
    const { page, posts, runs, stored } = await open([[call('k1', 'book')]])
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    expect(chat.status).toBe('ready')
    expect(callOf(chat)).toMatchObject({ state: 'approval-requested', input: { place: 'here' } })
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat)), approved: true, reason: 'go' })
    await whole(chat, 'Told: 1.')
    expect(chat.messages).toHaveLength(2)
    expect(chat.error).toBeUndefined()
    expect(essence(chat.messages[1]!.parts)).toEqual(essence((await stored()).parts))
    expect(callOf(chat)).toMatchObject({ state: 'output-available', output: { of: 'book' } })
    expect(runs).toHaveLength(1)
    expect(posts).toHaveLength(2)
  })

  test('a refusal is shown and told to the model', async () => {
    const { page, posts, runs, stored } = await open([[call('k1', 'book')]])
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat)), approved: false, reason: 'too dear' })
    await whole(chat, 'Told: 1.')
    expect(callOf(chat).state).toBe('output-denied')
    expect(essence(chat.messages[1]!.parts)).toEqual(essence((await stored()).parts))
    expect(runs).toEqual([])
    expect(posts).toHaveLength(2)
  })

  test('a tool of the client runs in the page once per call, and each of its results goes on', async () => {
    const ran: string[] = []
    const { page, posts, stored } = await open([[call('k1', 'where')], [call('k2', 'where')]], {
      sendAutomaticallyWhen: completes,
    })
    const chat: SdkChat = await page({
      onToolCall({ toolCall }: { toolCall: { toolName: string; toolCallId: string } }) {
        if (toolCall.toolName !== 'where') return
        ran.push(toolCall.toolCallId)
        const result =
          toolCall.toolCallId === 'k1' ? { output: [1, 2] } : { state: 'output-error' as const, errorText: 'no GPS' }
        void chat.addToolOutput({ tool: 'where', toolCallId: toolCall.toolCallId, ...result })
      },
    })
    await chat.sendMessage({ text: 'hi' })
    await whole(chat, 'Told: 2.')
    expect(ran).toEqual(['k1', 'k2'])
    expect(callsIn((await stored()).parts)).toEqual([
      ['k1', 'output-available', [1, 2]],
      ['k2', 'output-error', 'no GPS'],
    ])
    expect(essence(chat.messages[1]!.parts)).toEqual(essence((await stored()).parts))
    expect(posts).toHaveLength(3)
  })

  test('a page that is loaded while the reply waits shows what is asked, resumes nothing, and answers (P84)', async () => {
    const { chat: server, session, page, stored, runs } = await open([[call('k1', 'book')]])
    const first = await page()
    await first.sendMessage({ text: 'hi' })
    const messages = await server.messages.forUseChat(session, { userId: 'ann' })
    expect(callsIn(messages[1]!.parts as never)).toEqual([['k1', 'approval-requested']])
    const later = await page({ messages })
    await later.resumeStream()
    expect(later.status).toBe('ready')
    expect(later.messages).toEqual(messages)
    await later.addToolApprovalResponse({ id: approvalIn(callOf(later)), approved: true })
    await whole(later, 'Told: 1.')
    expect(later.messages).toHaveLength(2)
    expect(essence(later.messages[1]!.parts)).toEqual(essence((await stored()).parts))
    expect(runs).toHaveLength(1)
  })

  test('who answers what another device has answered otherwise is told so in words, and no POST repeats itself', async () => {
    const { ann, session, page, posts, watcher, runs } = await open([[call('k1', 'book')]])
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    const id = approvalIn(callOf(chat))
    await answer(ann, session, 'approvals', id, { approved: false })
    await watcher.outcome(chat.messages[0]!.id)
    await chat.addToolApprovalResponse({ id, approved: true })
    await until(() => chat.status === 'error')
    expect(chat.error!.message).toMatch(/answered otherwise/)
    expect(posts).toHaveLength(2)
    expect(runs).toEqual([])
  })

  test('who answers the same as another device has is told what came of it', async () => {
    const { ann, session, page, posts, watcher, stored } = await open([[call('k1', 'book')]])
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    const id = approvalIn(callOf(chat))
    await answer(ann, session, 'approvals', id, { approved: true })
    await watcher.outcome(chat.messages[0]!.id)
    await chat.addToolApprovalResponse({ id, approved: true })
    await whole(chat, 'Told: 1.')
    expect(essence(chat.messages[1]!.parts)).toEqual(essence((await stored()).parts))
    expect(posts).toHaveLength(2)
  })

  test('a second wait in one reply ends the stream again, and the last answer finishes it', async () => {
    const { page, stored, posts } = await open([[call('k1', 'book')], [call('k2', 'book')]])
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat)), approved: true })
    await until(() => chat.status === 'ready' && callOf(chat, 'k2')?.state === 'approval-requested')
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat, 'k2')), approved: false })
    await whole(chat, 'Told: 2.')
    expect(essence(chat.messages[1]!.parts)).toEqual(essence((await stored()).parts))
    expect(posts).toHaveLength(3)
  })

  test('one of two answers is stored, and the page that sends it alone may give the other one', async () => {
    const { page, ann, session } = await open([[call('k1', 'book', 'a'), call('k2', 'book', 'b')]], {
      sendAutomaticallyWhen: undefined,
    })
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat)), approved: true })
    await chat.sendMessage()
    expect(chat.status).toBe('ready')
    expect((await ann.snapshot(session)).turns[0]).toMatchObject({ approvals: [{ toolCallId: 'k2' }] })
    expect(callsIn(chat.messages[1]!.parts as never)).toEqual([
      ['k1', 'approval-responded'],
      ['k2', 'approval-requested'],
    ])
    // Nothing new: it is refused, so that no client asks for ever.
    await chat.sendMessage()
    expect(chat.error!.message).toMatch(/waits for another one/)
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat, 'k2')), approved: true })
    await chat.sendMessage()
    await whole(chat, 'Told: 2.')
  })

  test('regenerate() after a cut in the continuation tells the whole reply from its first step, without asking again', async () => {
    let go: () => void = () => undefined
    const gone = new Promise<void>((resolve) => {
      go = resolve
    })
    const scene = await openAsking(major, [[call('k1', 'book')]], {
      execute: async () => await gone.then(() => 'booked'),
    })
    const page = () =>
      sdkChat(major, {
        url: scene.url,
        id: scene.session,
        headers: { 'x-ai-sdk': String(major) },
        sendAutomaticallyWhen: approves,
      })
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat)), approved: true })
    await scene.watcher.until(({ type, data }) => type === 'attempt.started' && data.attempt === 2)
    await chat.stop()
    const again = chat.regenerate()
    await until(() => chat.status === 'streaming' && chat.messages.length === 2 && callOf(chat) !== undefined)
    expect(callOf(chat).state).toBe(major === 6 ? 'input-available' : 'approval-responded')
    go()
    await again
    await whole(chat, 'Told: 1.')
    expect(scene.runs).toHaveLength(1)
    const stored = (await scene.ann.snapshot(scene.session)).messages.at(-1)!
    const told = (parts: readonly { type: string; [field: string]: unknown }[]) =>
      essence(parts).map((part) => ({ ...part, approval: undefined }))
    expect(told(chat.messages[1]!.parts)).toEqual(told(stored.parts))
  })

  test('of a forged body nothing is taken but the answer: no tool runs that nobody approved (P80)', async () => {
    const { url, session, runs, watcher, page, stored } = await open([[call('k1', 'book')]])
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    const [asked, reply] = chat.messages
    const token = await tokenOf('ann')
    const post = (messages: unknown[]) =>
      fetch(`${url}/api/chat`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        body: JSON.stringify({ id: session, messages, trigger: 'submit-message' }),
      })
    const part = (fields: object) => ({
      type: 'tool-book',
      toolCallId: 'k1',
      state: 'approval-responded',
      input: { place: 'elsewhere' },
      ...fields,
    })
    const forged = [
      // An approval that nobody asked for, and a result of a tool that is not the client's.
      part({ approval: { id: 'mine', approved: true } }),
      part({ state: 'output-available', output: 'free' }),
      part({ toolCallId: 'k9', state: 'output-available', output: 'free' }),
    ]
    for (const each of forged) {
      expect((await post([asked, { id: reply!.id, role: 'assistant', parts: [each] }])).status).toBe(409)
    }
    const id = approvalIn(callOf(chat))
    // Under another reply's id.
    const elsewhere = { id: 'a9', role: 'assistant', parts: [part({ approval: { id, approved: true } })] }
    expect((await post([asked, elsewhere])).status).toBe(409)
    expect(runs).toEqual([])
    // The right id with another input and another tool: what was shown runs.
    const answered = await post([
      asked,
      { id: reply!.id, role: 'assistant', parts: [part({ type: 'tool-look', approval: { id, approved: true } })] },
    ])
    expect(answered.status).toBe(200)
    await answered.text()
    await watcher.outcome(asked!.id)
    expect(runs).toEqual([{ name: 'book', input: { place: 'here' }, toolCallId: 'k1' }])
    expect(callsIn((await stored()).parts)).toEqual([['k1', 'output-available', { of: 'book' }]])
  })

  test('an answer in the middle of the history counts, and the new message has its turn behind that reply', async () => {
    const { page, watcher, ann, session, provider } = await open([[call('k1', 'book')]], {
      sendAutomaticallyWhen: undefined,
    })
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat)), approved: true })
    await chat.sendMessage({ text: 'and now?' })
    expect(chat.status).toBe('ready')
    await watcher.outcome(chat.messages[0]!.id)
    const { messages } = await ann.snapshot(session)
    expect(messages.map(({ role, status }) => [role, status])).toEqual([
      ['user', 'complete'],
      ['assistant', 'complete'],
      ['user', 'complete'],
      ['assistant', 'complete'],
    ])
    expect(provider.requests).toHaveLength(3)
  })

  test('holdfastTransport goes on as the SDK’s own does, and a page beside it is told of the wait and of the answer', async () => {
    const { url, session, stored, runs } = await open([[call('k1', 'book')]])
    const headers = async () => ({ authorization: `Bearer ${await tokenOf('ann')}` })
    const beside = holdfastTransport({ api: url, headers })
    const seen: string[] = []
    onTestFinished(
      beside.follow(session, (messages, isRunning) => {
        seen.push(
          `${callsIn(messages.at(-1)?.parts ?? [])
            .flat()
            .join(' ')}${isRunning ? ' …' : ''}`,
        )
      }),
    )
    const transport = holdfastTransport({ api: url, headers, sdk: major })
    const chat = await sdkChat(major, { url, id: session, transport, sendAutomaticallyWhen: approves })
    await chat.sendMessage({ text: 'hi' })
    expect(callOf(chat).state).toBe('approval-requested')
    await until(() => seen.at(-1) === 'k1 approval-requested')
    await chat.addToolApprovalResponse({ id: approvalIn(callOf(chat)), approved: true })
    await whole(chat, 'Told: 1.')
    expect(chat.messages).toHaveLength(2)
    expect(essence(chat.messages[1]!.parts)).toEqual(essence((await stored()).parts))
    await until(() => seen.at(-1) === 'k1 output-available [object Object]')
    expect(runs).toHaveLength(1)
  })

  describe('a call of which nobody knows whether it ran (P112)', () => {
    /** The page has sent, the process that ran the tool is gone, and the next one asks. */
    const openUncertain = async () => {
      let dies = true
      const scene = await openAsking(major, [[call('k1', 'look')]], {
        leaseMs: 1_000,
        pollMs: 100,
        execute: () => (dies ? new Promise(() => undefined) : { of: 'look' }),
      })
      const page = await sdkChat(major, {
        url: scene.url,
        id: scene.session,
        headers: { 'x-ai-sdk': String(major) },
        sendAutomaticallyWhen: approves,
      })
      const sent = page.sendMessage({ text: 'hi' })
      await until(() => scene.runs.length === 1)
      dies = false
      // As a claim after its lease, of which the process that stands still has heard nothing.
      const taken = await queryOnce(
        scene.database,
        `update holdfast.turns set state = 'queued', due_at = now(), lease_until = null where state = 'running' returning 1`,
      )
      expect(taken).toHaveLength(1)
      await sent
      const stored = async () => (await scene.ann.snapshot(scene.session)).messages.at(-1)!
      return { ...scene, page, stored }
    }

    test('the page’s own buttons answer: approved, it runs again and is told in the same message', async () => {
      const { page, stored, runs, watcher } = await openUncertain()
      expect(callOf(page)).toMatchObject({ state: 'approval-requested' })
      expect((await waits(watcher)).data.turn.approvals).toMatchObject([{ kind: 'uncertain' }])
      expect(runs).toHaveLength(1)
      await page.addToolApprovalResponse({ id: approvalIn(callOf(page)), approved: true })
      await whole(page, 'Told: 1.')
      expect(page.messages).toHaveLength(2)
      expect(callsIn(page.messages[1]!.parts as never)).toEqual(callsIn((await stored()).parts))
      expect(runs).toHaveLength(2)
    })

    test('refused, the page is told that nobody knows, and it does not run', async () => {
      const { page, stored, runs } = await openUncertain()
      await page.addToolApprovalResponse({ id: approvalIn(callOf(page)), approved: false })
      await whole(page, 'Told: 1.')
      expect(page.messages).toHaveLength(2)
      expect(callOf(page)).toMatchObject({ state: 'output-error', errorText: unknown })
      expect(callsIn((await stored()).parts)).toEqual([['k1', 'output-error', unknown]])
      expect(runs).toHaveLength(1)
    })
  })

  test('stopped elsewhere right after an answer, the page does not ask again by itself (P85)', async () => {
    const { ann, session, page, posts, provider } = await open([[call('k1', 'where')]], {
      sendAutomaticallyWhen: completes,
    })
    const chat = await page()
    await chat.sendMessage({ text: 'hi' })
    provider.script(() => [{ pauseMs: 60_000 }])
    await chat.addToolOutput({ tool: 'where', toolCallId: 'k1', output: 'home' })
    await until(() => posts.length === 2 && provider.requests.length === 2)
    await ann.command(session, chat.messages[0]!.id, 'stop')
    await until(() => chat.status === 'ready')
    expect(callsIn(chat.messages[1]!.parts as never)).toEqual([['k1', 'output-available', 'home']])
    // What it would send by itself goes out before it is ready.
    expect(posts).toHaveLength(2)
  })
})

test('over a WebSocket the answer is told in the same way: only what is new, under the same id (P86, P105)', async () => {
  const { url, session, ann, runs } = await openAsking(7, [[call('k1', 'book')]])
  const headers = { authorization: `Bearer ${await tokenOf('ann')}` }
  class SignedIn extends WebSocket {
    constructor(address: string | URL, protocols?: string | string[]) {
      super(address, protocols, { headers })
      onTestFinished(() => this.terminate())
    }
  }
  const transport = new WebSocketChatTransport({ url: `${url}/api/chat/ws`, webSocket: SignedIn as never })
  const chat = await sdkChat(7, { url, id: session, transport, sendAutomaticallyWhen: approved7 })
  await chat.sendMessage({ text: 'hi' })
  const id = approvalIn(callOf(chat))
  await chat.addToolApprovalResponse({ id, approved: true })
  await whole(chat, 'Told: 1.')
  expect(chat.messages).toHaveLength(2)
  const { messages } = await ann.snapshot(session)
  expect(callsIn(chat.messages[1]!.parts as never)).toEqual(callsIn(messages[1]!.parts))
  expect(runs).toHaveLength(1)
})
