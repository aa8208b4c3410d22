/** `holdfast/client` and `holdfast/react` in React Native: what docs/guides/react-native.md says, done (R0.5, I5, I7, I10). */
import { readFile } from 'node:fs/promises'
import { Script } from 'node:vm'
import { afterAll, beforeAll, expect, inject, onTestFinished, test } from 'vitest'
import type { HoldfastClient } from '../../src/client/client.ts'
import { textOf } from '../../src/core/parts.ts'
import { type Script as Says, scriptedReply, testServer } from '../../src/testing/index.ts'
import { eventually } from '../support/eventually.ts'
import { type App, installApp } from './app.ts'
import { type AsyncStorage, type Phone, type PhoneOptions, startPhone } from './phone.ts'

let app: App
let path: string
let source: string
let bundle: Script
beforeAll(async () => {
  app = await installApp()
  path = await app.bundle()
  source = await readFile(path, 'utf8')
  bundle = new Script(source, { filename: path })
}, 240_000)
afterAll(() => app?.remove())

async function openServer(says: Says) {
  const reply = scriptedReply(says)
  const server = await testServer({ database: inject('postgres').url18, reply })
  onTestFinished(() => server.close())
  await server.chat.sessions.create({ id: 'trip', userId: 'ann' })
  const token = await server.token('ann')
  const start = (options: Partial<PhoneOptions> = {}): Phone => {
    const phone = startPhone(bundle, { url: server.url, token, storage: openStorage().storage, ...options })
    onTestFinished(() => phone.end())
    return phone
  }
  return { server, reply, start }
}

/** As AsyncStorage keeps texts, through the ends of apps. */
function openStorage() {
  const kept = new Map<string, string>()
  const storage: AsyncStorage = {
    getAllKeys: async () => [...kept.keys()],
    getItem: async (key) => kept.get(key) ?? null,
    async setItem(key, value) {
      kept.set(key, value)
    },
    async removeItem(key) {
      kept.delete(key)
    },
  }
  return { kept, storage }
}

/** Session `trip`, followed until the test ends. */
function follow(chat: HoldfastClient) {
  const session = chat.session('trip')
  onTestFinished(session.subscribe(() => undefined))
  const shown = () => session.getSnapshot().messages.map(({ role, parts }) => `${role}: ${textOf(parts)}`)
  const shows = (...texts: string[]) => eventually(async () => JSON.stringify(shown()) === JSON.stringify(texts))
  return { session, shown, shows, isLive: () => eventually(async () => session.getSnapshot().isLive) }
}

test('the bundle is compiled for Hermes', async () => {
  const systems: { [platform: string]: string } = { linux: 'linux64-bin', darwin: 'osx-bin', win32: 'win64-bin' }
  const compiler = `node_modules/hermes-compiler/hermesc/${systems[process.platform]}/hermesc`
  await app.compile(compiler, ['-emit-binary', '-O', '-out', `${path}.hbc`, path])
  expect((await readFile(`${path}.hbc`)).length).toBeGreaterThan(100_000)
})

test('the phone of these tests has nothing that React Native lacks, and no module of the bundle calls it', async () => {
  const { start } = await openServer(['Yes.'])
  const { globals } = start()
  const lacking = `document location indexedDB BroadcastChannel crypto structuredClone ReadableStream TextDecoder TextEncoder
    AbortSignal Event EventTarget DOMException Blob Buffer require WebSocket Intl WeakRef`
  expect(lacking.split(/\s+/).filter((name) => name in globals)).toEqual([])
  const newest = 'Object.hasOwn ?? [].findLast ?? [].toReversed ?? "".isWellFormed ?? navigator.locks'
  expect(new Script(newest).runInContext(globals)).toBeUndefined()
  const calls = /\b(?:findLast\w*|to(?:Reversed|Sorted|Spliced)|hasOwn|groupBy|withResolvers|structuredClone)\(/g
  expect(source.match(calls)).toBeNull()
})

const networks = [
  ['websocket', { hasSocket: true }],
  ['poll', {}],
  ['sse', { hasExpoFetch: true }],
] as const

test.each(networks)(
  'over %s a message is sent and its reply followed to the end, through background and foreground',
  async (transport, has) => {
    const { server, reply, start } = await openServer(['To ', { wait: 'half' }, 'the ', { wait: 'tide' }, 'sea.'])
    const phone = start(has)
    const { chat } = phone.app
    const { session, shown, shows, isLive } = follow(chat)
    await isLive()
    expect(chat.connection.getSnapshot()).toMatchObject({ phase: 'live', transport })
    const { message } = await session.send({ text: 'Where to?' })
    await shows('user: Where to?', 'assistant: To ')
    reply.open('half')
    await shows('user: Where to?', 'assistant: To the ')

    phone.leave()
    server.refuse()
    // Stood still where it waits to try again: now only the app's word wakes it.
    await eventually(async () => {
      if (chat.connection.getSnapshot().phase !== 'waiting') return false
      phone.freeze()
      return true
    })
    reply.open('tide')
    await server.outcome('trip', message.id)
    expect(shown()).toEqual(['user: Where to?', 'assistant: To the '])
    server.allow()
    phone.comeBack()
    await shows('user: Where to?', 'assistant: To the sea.')
    await eventually(async () => session.getSnapshot().messages[1]!.status === 'complete')
    expect(chat.connection.getSnapshot()).toMatchObject({ phase: 'live', transport })
    expect(session.getSnapshot()).toMatchObject({ isLive: true, isBusy: false })
  },
)

test('what a tool is asked is shown while the model writes it, without the newest of JavaScript', async () => {
  const { reply, start } = await openServer([
    { type: 'tool-input-start', toolCallId: 'c1', toolName: 'weather' },
    { type: 'tool-input-delta', toolCallId: 'c1', inputTextDelta: '{"city":"Pa\\ud83d ris","days":[1,2' },
    { wait: 'asked' },
    { type: 'tool-input-available', toolCallId: 'c1', toolName: 'weather', input: { city: 'Paris' } },
    { type: 'tool-output-available', toolCallId: 'c1', output: { rain: true } },
    { type: 'message-metadata', messageMetadata: { seen: { at: 1 } } },
    { type: 'message-metadata', messageMetadata: { seen: { by: 'me' } } },
    'Rain.',
  ])
  const { session } = follow(start({ hasSocket: true }).app.chat)
  await session.send({ text: 'Rain?' })
  const last = () => session.getSnapshot().messages[1]
  const part = () => last()?.parts.find(({ type }) => type === 'tool-weather')
  await eventually(async () => part()?.state === 'input-streaming')
  await eventually(async () => JSON.stringify(part()!.input) === '{"city":"Pa\uFFFD ris","days":[1,2]}')
  reply.open('asked')
  await eventually(async () => last()!.status === 'complete')
  expect(part()).toMatchObject({ state: 'output-available', output: { rain: true } })
  expect(last()!.metadata).toEqual({ seen: { at: 1, by: 'me' } })
})

test('what was unsent when the app was ended is shown and sent by the next, under its id and once (I10)', async () => {
  const { server, start } = await openServer(['To the sea.'])
  const { kept, storage } = openStorage()
  const first = start({ storage, hasSocket: true })
  const { session } = follow(first.app.chat)
  await eventually(async () => session.getSnapshot().phase === 'ready')
  server.refuse()
  session.send({ text: 'Where to?' }).catch(() => undefined)
  await eventually(async () => [...kept.values()].some((value) => value.includes('Where to?')))
  const { id } = first.app.chat.unsent.list()[0]!
  first.end()

  const second = start({ storage, hasSocket: true })
  const { shows } = follow(second.app.chat)
  await shows('user: Where to?')
  expect(second.app.chat.unsent.list()).toMatchObject([{ id, sessionId: 'trip', state: 'waiting' }])
  server.allow()
  second.comeBack()
  await shows('user: Where to?', 'assistant: To the sea.')
  expect((await server.outcome('trip', id)).turn.state).toBe('complete')
  await eventually(async () => [...kept.keys()].every((key) => !key.startsWith('unsent:')))
})

test.each(['delete', 'remove'] as const)('mmkvStorage keeps what is unsent, with its %s', async (name) => {
  const { server, start } = await openServer(['To the sea.'])
  const { app: given } = start()
  const kept = new Map<string, string>()
  const mmkv = {
    getAllKeys: () => [...kept.keys()],
    getString: (key: string) => kept.get(key),
    set: (key: string, value: string) => void kept.set(key, value),
    [name]: (key: string) => kept.delete(key),
  } as Parameters<typeof given.client.mmkvStorage>[0]
  const open = () =>
    given.client.createClient({
      url: server.url,
      token: () => server.token('ann'),
      storage: given.client.mmkvStorage(mmkv),
    })
  server.refuse()
  const first = open()
  await first.unsent.add({ sessionId: 'trip', id: 'm1', parts: [{ type: 'text', text: 'Where to?' }] })
  first.close()
  const second = open()
  onTestFinished(() => second.close())
  await eventually(async () => second.unsent.list().length === 1)
  server.allow()
  second.wake()
  expect((await server.outcome('trip', 'm1')).text).toBe('To the sea.')
  await eventually(async () => kept.size === 0)
})

test('the screen of the guide shows a conversation, and sends what is written there', async () => {
  const { start } = await openServer(['To the sea.'])
  const phone = start({ hasSocket: true })
  const screen = phone.app.show('trip')
  onTestFinished(() => screen.unmount())
  type Node = { type: string; props: Record<string, (value?: string) => void>; children: Node[] | null } | string
  const nodes = (type: string) => {
    const find = (node: Node | Node[] | null): Exclude<Node, string>[] => {
      if (node === null || typeof node === 'string') return []
      if (Array.isArray(node)) return node.flatMap(find)
      return [...(node.type === type ? [node] : []), ...find(node.children)]
    }
    return find(screen.toJSON() as Node | Node[] | null)
  }
  const [input] = await eventually(async () => (nodes('TextInput').length === 1 ? nodes('TextInput') : false))
  input!.props.onChangeText!('Where to?')
  await eventually(async () => String(nodes('TextInput')[0]!.props.value) === 'Where to?')
  nodes('TextInput')[0]!.props.onSubmitEditing!()
  const texts = () => nodes('Text').map(({ children }) => (children ?? []).join(''))
  await eventually(async () => texts().join('|') === 'Where to?|To the sea.')
})

test('Jest loads it by the line of the guide', async () => {
  const printed = await app.run('jest/bin/jest.js', ['--ci', '--json', '--silent', 'chat.test.js'])
  expect(JSON.parse(printed)).toMatchObject({ success: true, numPassedTests: 1 })
})
