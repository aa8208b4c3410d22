import { setTimeout as pause } from 'node:timers/promises'
import { serve } from '@hono/node-server'
import { createHoldfast, type ReplyContext } from 'holdfast'
import { Hono } from 'hono'

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

const app = new Hono()

app.all('/api/chat/*', ({ req }) => chat.fetch(req.raw))
app.all('/v1/*', ({ req }) => chat.fetch(req.raw))

// The app's own routes.
app.get('/', ({ text }) => text('POST /api/chat is where useChat sends.'))

const port = Number(process.env.PORT ?? 3000)
const server = serve({ fetch: app.fetch, port }, () => console.log(`http://localhost:${port}`))

// Only for WebSocketChatTransport of AI SDK 7.
chat.attach(server)

// Hands what is being written to another process, and ends the embedded Postgres.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await chat.close()
    process.exit()
  })
}
