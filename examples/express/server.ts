import { setTimeout as pause } from 'node:timers/promises'
import express from 'express'
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

const app = express()

// A parser before Holdfast does no harm, as long as it takes what useChat sends: its whole history.
if (process.env.PARSER_FIRST) app.use(express.json({ limit: '16mb' }))

// `all` and not `use`: a path that `use` has cut short is none of Holdfast's.
app.all(['/api/chat{/*path}', '/v1/{*path}'], chat.node)

// The app's own routes.
app.use(express.json())
app.get('/', (_request, response) => {
  response.send('POST /api/chat is where useChat sends.')
})

const port = Number(process.env.PORT ?? 3000)
const server = app.listen(port, () => console.log(`http://localhost:${port}`))

// Only for WebSocketChatTransport of AI SDK 7.
chat.attach(server)

// Hands what is being written to another process, and ends the embedded Postgres.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await chat.close()
    process.exit()
  })
}
