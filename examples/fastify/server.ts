import { setTimeout as pause } from 'node:timers/promises'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
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

const app = Fastify()

app.register(async (scope) => {
  // In this scope no body is parsed: Holdfast reads it itself.
  scope.removeAllContentTypeParsers()
  scope.addContentTypeParser('*', (_request, _payload, done) => done(null))
  for (const path of ['/api/chat', '/api/chat/*', '/v1/*']) scope.all(path, answer)
})

async function answer({ raw: incoming }: FastifyRequest, reply: FastifyReply) {
  reply.hijack()
  await chat.node(incoming, reply.raw)
}

// The app's own routes, with Fastify's parsers.
app.get('/', () => 'POST /api/chat is where useChat sends.')

// Only for WebSocketChatTransport of AI SDK 7.
chat.attach(app.server)

const port = Number(process.env.PORT ?? 3000)
await app.listen({ port, host: 'localhost' })
console.log(`http://localhost:${port}`)

// Hands what is being written to another process, and ends the embedded Postgres.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await chat.close()
    process.exit()
  })
}
