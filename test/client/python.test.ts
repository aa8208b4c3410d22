import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { openChat } from '../support/chat.ts'
import type { Snapshot } from '../support/client.ts'
import { needProgram } from '../support/debian.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy } from '../support/proxy.ts'
import { tokenOf } from '../support/server.ts'

const program = fileURLToPath(new URL('./python/run.py', import.meta.url))
const cases = fileURLToPath(new URL('./cases', import.meta.url))
type Shown = Pick<Snapshot, 'messages' | 'turns' | 'cursor'> & { members: object[] }

/** The client of another language, by its command line: what it shows comes line by line. */
async function python(args: string[], onShown: (shown: Shown) => Promise<void> = async () => undefined) {
  await needProgram('python3', 'python3')
  const child = spawn('python3', ['-B', program, ...args], {
    env: { PATH: process.env.PATH, HOLDFAST_TOKEN: await tokenOf('ann') },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let errors = ''
  child.stderr.on('data', (data) => {
    errors += data
  })
  const closed = once(child, 'close')
  for await (const line of createInterface({ input: child.stdout })) await onShown(JSON.parse(line))
  const [code] = await closed
  expect(errors).toBe('')
  expect(code).toBe(0)
}

test('a client written from PROTOCOL.md alone shows in each case what every client shows (R2.1, I5)', async () => {
  await python(['--cases', cases])
})

test.for(['poll', 'stream'])(
  'a client written from PROTOCOL.md alone sends, follows by %s through cuts, and shows what is stored (R2.1, I5, I7)',
  async (way, { onTestFinished }) => {
    const shows = new EventEmitter()
    const [isOneShown, isTwoShown] = [once(shows, 'one '), once(shows, 'one two ')]
    const { url, ann } = await openChat({
      reply: async function* () {
        yield 'one '
        await isOneShown
        yield 'two '
        await isTwoShown
        yield 'three'
      },
    })
    const { hostname: host, port } = new URL(url)
    const proxy = await startProxy({ target: { host, port: Number(port) } })
    onTestFinished(() => proxy.close())

    const texts: string[] = []
    let last: Shown | undefined
    await python(['--chat', `http://${proxy.host}:${proxy.port}`, 'of-python', 'Count.', way], async (shown) => {
      last = shown
      const text = shown.messages[1]?.parts.map((part) => ('text' in part ? part.text : '')).join('') ?? ''
      if (text === '' || text === texts.at(-1)) return
      texts.push(text)
      // What comes next is written after the cut.
      if (!text.endsWith('three')) {
        await eventually(async () => proxy.counts.open > 0)
        proxy.cutAll()
      }
      shows.emit(text)
    })

    expect(texts).toEqual(['one ', 'one two ', 'one two three'])
    expect(proxy.counts.cut).toBeGreaterThanOrEqual(2)
    const stored = await ann.snapshot('of-python')
    expect(stored.turns).toEqual([])
    const { messages, members, cursor } = stored as Snapshot & Shown
    expect(last).toEqual({ messages, turns: [], members, cursor })
  },
)
