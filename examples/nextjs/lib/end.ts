import { chat } from './holdfast'

// When the server is told to end: what is being written goes to another process, and the embedded Postgres ends.
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await chat.close()
    process.exit()
  })
}
