/** What clients know of `typeof chat`. Nothing runs: the compiler is the test (`tsc -p test`). */
import { stepCountIs, streamText as streamText6, tool as tool6 } from 'ai'
import { streamText as streamText7, tool as tool7 } from 'ai7'
import { expectTypeOf, test } from 'vitest'
import * as z from 'zod'
import type { HoldfastClient, ShownMessage } from '../../src/client/client.ts'
import { createHoldfast, type Holdfast, type JsonObject } from '../../src/index.ts'
import { type useChatSession, useRealtime, type useSendMessage } from '../../src/react/index.ts'

type Offers = { offerReadyToShare: boolean; invitation?: string | null }
const onReply = async (): Promise<Offers> => ({ offerReadyToShare: true })
const inputSchema = z.object({ city: z.string() })
const prompt = 'hi'
const model = {} as never

const with6 = () =>
  createHoldfast({
    onReply,
    reply: ({ tools }) =>
      streamText6({
        model,
        prompt,
        stopWhen: stepCountIs(3),
        tools: tools({
          weather: tool6({ inputSchema, execute: async ({ city }) => ({ city, celsius: 20 }) }),
          ask: tool6({ inputSchema: z.object({ question: z.string() }), outputSchema: z.string() }),
        }),
      }),
  })
const with7 = () =>
  createHoldfast({
    onReply,
    reply: async ({ tools, messages }) => {
      if (messages.length === 0) return 'nothing'
      const weather = tool7({ inputSchema, execute: async ({ city }) => ({ city, celsius: 20 }) })
      const ask = tool7({ inputSchema: z.object({ question: z.string() }), outputSchema: z.string() })
      return streamText7({ model, prompt, tools: tools({ weather, ask }) })
    },
  })
const withEvents = () =>
  createHoldfast({
    onReply,
    reply: () => 'x',
    events: {
      'partner.signed_compact': z.object({ stage: z.coerce.number<string>() }),
      'session.paused': z.null(),
    },
  })
const plain = () => createHoldfast({ reply: () => 'x' })
const ownObject = () =>
  createHoldfast({ reply: () => ({ toUIMessageStream: () => new ReadableStream<unknown>() }), onReply })

type Chat = ReturnType<typeof with6>
type Shown<C> = ReturnType<typeof useChatSession<C>>['messages'][number]
type PartOf<C> = Shown<C>['parts'][number]
type Weather = { city: string; celsius: number }

test('the metadata of messages are what onReply answers', () => {
  expectTypeOf<Shown<Chat>['metadata']>().toEqualTypeOf<Offers | null>()
  expectTypeOf<Shown<ReturnType<typeof plain>>['metadata']>().toEqualTypeOf<JsonObject | null>()
  expectTypeOf<ReturnType<typeof ownObject>>().toEqualTypeOf<Holdfast<Offers>>()
})

test('parts of tools have their inputs and outputs, with streamText of AI SDK 6 and 7', () => {
  const celsiusOf = (part: PartOf<Chat>) => {
    if (part.type !== 'tool-weather' || part.state !== 'output-available') return null
    expectTypeOf(part.input).toEqualTypeOf<{ city: string }>()
    expectTypeOf(part.output).toEqualTypeOf<Weather>()
    return part.output.celsius
  }
  expectTypeOf(celsiusOf).returns.toEqualTypeOf<number | null>()
  const answerOf = (part: PartOf<Chat>) =>
    part.type === 'tool-ask' && part.state === 'output-available' ? part.output : null
  expectTypeOf(answerOf).returns.toEqualTypeOf<string | null>()
  const textOf = (part: PartOf<Chat>) => (part.type === 'text' ? part.text : null)
  expectTypeOf(textOf).returns.toEqualTypeOf<string | null>()
  // @ts-expect-error no such tool
  ;(part: PartOf<Chat>) => part.type === 'tool-wether'
  expectTypeOf<PartOf<ReturnType<typeof with7>>>().toEqualTypeOf<PartOf<Chat>>()
})

test('without tools that are known, and without a chat, every part is there to look at', () => {
  ;(part: PartOf<ReturnType<typeof plain>>) => part.type === 'tool-any'
  ;(part: PartOf<unknown>) => part.type === 'anything' && part.whatever
  expectTypeOf<ShownMessage>().toEqualTypeOf<Shown<unknown>>()
})

test('what is sent, commands, events and sessions without React know it, too', () => {
  type Sent = Awaited<ReturnType<ReturnType<typeof useSendMessage<Chat>>['send']>>
  expectTypeOf<Sent['metadata']>().toEqualTypeOf<Offers | null>()
  const stateOf = (client: HoldfastClient) => client.session<Chat>('s').getSnapshot()
  expectTypeOf<ReturnType<typeof stateOf>['messages'][number]>().toEqualTypeOf<Shown<Chat>>()
  const retried = (client: HoldfastClient) => client.session<Chat>('s').retry('m')
  type Reply = NonNullable<Awaited<ReturnType<typeof retried>>>['reply']
  expectTypeOf<NonNullable<Reply>['metadata']>().toEqualTypeOf<Offers | null>()
  ;() =>
    useRealtime<Chat>('s', {
      'message.ai_response': ({ message, offerReadyToShare }) => {
        expectTypeOf(message.metadata).toEqualTypeOf<Offers | null>()
        expectTypeOf(offerReadyToShare).toEqualTypeOf<boolean | undefined>()
      },
      'message.error': ({ userMessageId, canRetry }) => {
        expectTypeOf(userMessageId).toEqualTypeOf<string>()
        expectTypeOf(canRetry).toEqualTypeOf<boolean>()
      },
      'of.the.app': (data: { stage: number }) => data.stage,
    })
  ;() =>
    useRealtime<Chat>('s', {
      // @ts-expect-error no such metadata
      'message.ai_response': ({ offerReady }) => offerReady,
    })
})

test('the app’s own events are known by name and data where they are declared', () => {
  type WithEvents = ReturnType<typeof withEvents>
  ;(chat: WithEvents) => chat.publish('s', 'partner.signed_compact', { stage: '1' }, { excludeUserId: 'ann' })
  ;(chat: WithEvents) => chat.publish('s', 'session.paused', null)
  // @ts-expect-error not declared
  ;(chat: WithEvents) => chat.publish('s', 'partner.signed', null)
  // @ts-expect-error other data
  ;(chat: WithEvents) => chat.publish('s', 'partner.signed_compact', { stage: true })
  ;(chat: ReturnType<typeof plain>) => chat.publish('s', 'any.thing', { any: ['data'] })
  ;() =>
    useRealtime<WithEvents>('s', {
      'partner.signed_compact': ({ stage }) => {
        expectTypeOf(stage).toEqualTypeOf<number>()
      },
      'message.error': ({ canRetry }) => {
        expectTypeOf(canRetry).toEqualTypeOf<boolean>()
      },
      'member.joined': ({ member }) => {
        expectTypeOf(member.userId).toEqualTypeOf<string>()
      },
    })
  ;() =>
    useRealtime<WithEvents>('s', {
      // @ts-expect-error no such data
      'partner.signed_compact': ({ step }) => step,
    })
  type Shown = ReturnType<typeof useChatSession<WithEvents>>['messages'][number]
  expectTypeOf<Shown['metadata']>().toEqualTypeOf<Offers | null>()
})
