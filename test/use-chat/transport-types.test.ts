/** One object fits both majors. Nothing runs but what builds it: the compiler is the test (`tsc -p test`). */
import type { ChatInit as ChatInit6, ChatTransport as ChatTransport6, UIMessage as UIMessage6 } from 'ai'
import type { ChatInit as ChatInit7, ChatTransport as ChatTransport7, UIMessage as UIMessage7 } from 'ai7'
import { expect, expectTypeOf, test } from 'vitest'
import { type HoldfastTransport, holdfastTransport, type OnMessages } from '../../src/ai-sdk/transport.ts'

type Metadata = { mood: string }
type Data = { weather: { celsius: number } }
type Tools = { look: { input: { at: string }; output: { seen: boolean } } }

test('the transport is a ChatTransport of AI SDK 6 and of 7, also of an app’s own UIMessage', () => {
  expectTypeOf<HoldfastTransport>().toExtend<ChatTransport6<UIMessage6>>()
  expectTypeOf<HoldfastTransport>().toExtend<ChatTransport7<UIMessage7>>()
  expectTypeOf<HoldfastTransport>().toExtend<ChatTransport6<UIMessage6<Metadata, Data, Tools>>>()
  expectTypeOf<HoldfastTransport>().toExtend<ChatTransport7<UIMessage7<Metadata, Data, Tools>>>()
  const transport = holdfastTransport()
  const of6: ChatInit6<UIMessage6> = { transport }
  const of7: ChatInit7<UIMessage7> = { transport }
  expect([of6.transport, of7.transport]).toEqual([transport, transport])
})

test('what follow() tells is what setMessages takes', () => {
  type Told = Parameters<OnMessages>[0]
  expectTypeOf<Told>().toExtend<UIMessage6[]>()
  expectTypeOf<Told>().toExtend<UIMessage7[]>()
})

test('options are checked', () => {
  expectTypeOf(holdfastTransport).toBeCallableWith({ headers: () => ({ authorization: 'x' }), sdk: 7 })
  expectTypeOf(holdfastTransport).toBeCallableWith({ headers: async () => new Headers(), whenBusy: 'interrupt' })
  // @ts-expect-error no such policy
  ;() => holdfastTransport({ whenBusy: 'never' })
  // @ts-expect-error no such major
  ;() => holdfastTransport({ sdk: 5 })
})
