import { createServer } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { createHoldfast, type ReplyContext } from 'holdfast'

const chat = createHoldfast({ database: process.env.DATABASE_URL, reply })

// Without a key: the message again, ten words a second. With a model it is, after npm install ai @ai-sdk/openai:
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

const server = createServer((request, response) => {
  if (/^\/(api\/chat|v1)\b/.test(request.url ?? '')) return chat.node(request, response)
  // The app's own routes.
  response.end('POST /api/chat is where useChat sends.')
})

const port = Number(process.env.PORT ?? 3000)
server.listen(port, () => console.log(`http://localhost:${port}`))

// Only for WebSocketChatTransport of AI SDK 7.
chat.attach(server)

// Hands what is being written to another process, and ends the embedded Postgres.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await chat.close()
    process.exit()
  })
}
