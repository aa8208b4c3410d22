/**
 * An app's test as a process of its own: `node embedded-child.mjs <end>`. It says in lines of JSON how long its servers took to
 * start, then `up`; with `close` it closes them and comes to its end by itself, with `stay` it waits to be killed.
 */
import { scriptedReply, testServer } from '../../dist/testing/index.js'

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)
const timed = async () => {
  const began = performance.now()
  const server = await testServer({ reply: scriptedReply(['Hello.']) })
  return { server, tookMs: Math.round(performance.now() - began) }
}
const first = await timed()
const second = await timed()
say({ firstMs: first.tookMs, secondMs: second.tookMs })
const { chat } = first.server
await chat.sessions.create({ id: 'trip', userId: 'ann' })
await chat.send('trip', { id: 'm1', userId: 'ann', text: 'Hi' })
const { text } = await first.server.outcome('trip', 'm1')
say({ up: { text, databases: [first.server.database, second.server.database] } })
if (process.argv[2] === 'close') {
  await second.server.kill()
  await Promise.all([first.server.close(), second.server.close()])
  say({ closed: true })
}
