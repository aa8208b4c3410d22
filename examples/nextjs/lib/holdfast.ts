import { setTimeout as pause } from 'node:timers/promises'
import { createHoldfast, type ReplyContext } from 'holdfast'
import { userIn } from './user'

export const chat = createHoldfast({
  database: process.env.DATABASE_URL,
  authenticate: (request) => {
    const userId = userIn(request.headers.get('cookie') ?? '')
    return userId === undefined ? null : { userId }
  },
  reply,
})

// Without a key: the message again, ten words a second. With a model it is, after npm install @ai-sdk/openai@3:
//
// async function reply({ messages, signal }: ReplyContext) {
//   return streamText({
//     model: openai('gpt-5.1'),
//     messages: await convertToModelMessages(messages),
//     abortSignal: signal,
//     maxRetries: 0,
//   })
// }
async function* reply({ message, signal }: ReplyContext) {
  const [part] = message.parts
  const said = part?.type === 'text' ? part.text : 'a file'
  for (const word of `You said: ${said}`.split(' ')) {
    await pause(100, undefined, { signal })
    yield `${word} `
  }
}
