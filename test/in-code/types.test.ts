/** What `typeof chat` knows, a check for each function. Nothing runs: the compiler is the test (`tsc -p test`). */
import type { UIMessage as UIMessage6 } from 'ai'
import type { UIMessage as UIMessage7 } from 'ai7'
import { expectTypeOf, test } from 'vitest'
import {
  createHoldfast,
  type Holdfast,
  HoldfastError,
  type JsonObject,
  type Message,
  type Page,
  type RequestCode,
  type ServerSession,
  type Session,
} from '../../src/index.ts'

type Offers = { offerReadyToShare: boolean; invitation?: string | null }
const reply = () => 'x'
const make = () => createHoldfast({ reply, onReply: async (): Promise<Offers> => ({ offerReadyToShare: true }) })
type Chat = ReturnType<typeof make>
type Answer<F extends (...ask: never[]) => unknown> = Awaited<ReturnType<F>>

test('the metadata of messages are what onReply answers, inferred from the definition', () => {
  expectTypeOf<Chat>().toEqualTypeOf<Holdfast<Offers>>()
  expectTypeOf<Chat>().toExtend<Holdfast>()
  const literal = () => createHoldfast({ reply, onReply: () => ({ mood: 'calm' as const }) })
  expectTypeOf<ReturnType<typeof literal>>().toEqualTypeOf<Holdfast<{ mood: 'calm' }>>()
  const maybe = () => createHoldfast({ reply, onReply: ({ id }) => (id === '' ? null : { mood: 'calm' }) })
  expectTypeOf<ReturnType<typeof maybe>>().toEqualTypeOf<Holdfast<{ mood: string }>>()
  const none = () => createHoldfast({ reply })
  expectTypeOf<ReturnType<typeof none>>().toEqualTypeOf<Holdfast<JsonObject>>()
})

test('chat.sessions', () => {
  type Sessions = Chat['sessions']
  expectTypeOf<Answer<Sessions['create']>>().toEqualTypeOf<Session>()
  expectTypeOf<Answer<Sessions['get']>>().toEqualTypeOf<ServerSession | null>()
  expectTypeOf<Answer<Sessions['list']>>().toEqualTypeOf<Page<Session>>()
  expectTypeOf<Answer<Sessions['update']>>().toEqualTypeOf<ServerSession>()
  expectTypeOf<Answer<Sessions['delete']>>().toEqualTypeOf<boolean>()
  expectTypeOf<ServerSession['unread']>().toEqualTypeOf<number | null>()
  // @ts-expect-error whose it is
  ;(chat: Chat) => chat.sessions.create({ id: 's' })
  // @ts-expect-error whose they are
  ;(chat: Chat) => chat.sessions.list({})
})

test('chat.messages', () => {
  expectTypeOf<Answer<Chat['messages']['list']>>().toEqualTypeOf<Page<Message<Offers>>>()
  type ForUseChat = Answer<Chat['messages']['forUseChat']>
  expectTypeOf<ForUseChat>().toExtend<UIMessage6<Offers>[]>()
  expectTypeOf<ForUseChat>().toExtend<UIMessage7<Offers>[]>()
  expectTypeOf<Answer<Holdfast['messages']['forUseChat']>>().toExtend<UIMessage6[]>()
  expectTypeOf<ForUseChat[number]['metadata']>().toEqualTypeOf<Offers | undefined>()
  // @ts-expect-error with whose eyes
  ;(chat: Chat) => chat.messages.forUseChat('s', {})
})

test('chat.send', () => {
  type Sent = Answer<Chat['send']>
  expectTypeOf<Sent['message']>().toEqualTypeOf<Message<Offers>>()
  const ready = ({ reply }: Sent) => ('parts' in reply ? reply.metadata?.offerReadyToShare : null)
  expectTypeOf(ready).returns.toEqualTypeOf<boolean | undefined | null>()
  ;(chat: Chat) => chat.send('s', { userId: 'ann', parts: [{ type: 'text', text: 'hi' }], whenBusy: 'interrupt' })
  // @ts-expect-error in whose name
  ;(chat: Chat) => chat.send('s', { text: 'hi' })
  // @ts-expect-error nothing is said
  ;(chat: Chat) => chat.send('s', { userId: 'ann' })
  // @ts-expect-error both are
  ;(chat: Chat) => chat.send('s', { userId: 'ann', text: 'hi', parts: [{ type: 'text', text: 'hi' }] })
  // @ts-expect-error no such choice
  ;(chat: Chat) => chat.send('s', { userId: 'ann', text: 'hi', whenBusy: 'wait' })
})

test('chat.say', () => {
  expectTypeOf<Answer<Chat['say']>['message']['metadata']>().toEqualTypeOf<Offers | null>()
  ;(chat: Chat) => chat.say('s', { text: 'hi', metadata: { offerReadyToShare: false }, lane: 'user:ann' })
  // @ts-expect-error not the app's metadata
  ;(chat: Chat) => chat.say('s', { text: 'hi', metadata: { mood: 'calm' } })
  // @ts-expect-error no lane's name
  ;(chat: Chat) => chat.say('s', { text: 'hi', lane: 'ann' })
})

test('chat.stop and chat.retry', () => {
  type Stand = Answer<Chat['stop']>
  expectTypeOf<Answer<Chat['retry']>>().toEqualTypeOf<Omit<Stand, 'withdrawn'>>()
  expectTypeOf<Stand['reply']>().toEqualTypeOf<Message<Offers>>()
  expectTypeOf<Stand['turn']['state']>().toEqualTypeOf<
    'queued' | 'running' | 'waiting' | 'complete' | 'failed' | 'stopped'
  >()
  // @ts-expect-error a retry has no reason
  ;(chat: Chat) => chat.retry('s', 'm', { reason: 'why' })
})

test('chat.approve and chat.answerTool', () => {
  type Stand = Omit<Answer<Chat['stop']>, 'withdrawn'>
  expectTypeOf<Answer<Chat['approve']>>().toEqualTypeOf<Stand>()
  expectTypeOf<Answer<Chat['answerTool']>>().toEqualTypeOf<Stand>()
  expectTypeOf<Stand['turn']['waitingFor']>().toEqualTypeOf<'approval' | 'uncertain' | 'budget' | 'tool' | undefined>()
  ;(chat: Chat) =>
    chat.approve('s', 'p', { approved: false, reason: 'no', userId: 'ann', tenantId: 't', turnId: 'u', attempt: 1 })
  ;(chat: Chat) => chat.answerTool('s', 'k', { output: [1, null] })
  ;(chat: Chat) => chat.answerTool('s', 'k', { errorText: 'no', userId: 'ann' })
  // @ts-expect-error approved or not has to be said
  ;(chat: Chat) => chat.approve('s', 'p', { reason: 'no' })
  // @ts-expect-error one of both
  ;(chat: Chat) => chat.answerTool('s', 'k', { output: 1, errorText: 'no' })
  // @ts-expect-error no JSON
  ;(chat: Chat) => chat.answerTool('s', 'k', { output: () => 1 })
})

test('HoldfastError: its code is one of the table, so a switch on it is exhaustive', () => {
  expectTypeOf<HoldfastError['code']>().toEqualTypeOf<RequestCode>()
  const codeOf = (error: unknown) => (error instanceof HoldfastError ? error.code : null)
  expectTypeOf(codeOf).returns.toEqualTypeOf<RequestCode | null>()
})
