/** Clients behind a proxy, before a server whose replies a test lets go on word by word. */
import { onTestFinished } from 'vitest'
import { WebSocket as NodeSocket } from 'ws'
import {
  type ClientOptions,
  createClient,
  type HoldfastClient,
  memoryStorage,
  type SessionHandle,
} from '../../src/client/client.ts'
import { textOf } from '../../src/core/parts.ts'
import type { Reply } from '../../src/index.ts'
import { type Chat, openChat } from '../support/chat.ts'
import { eventually } from '../support/eventually.ts'
import { startProxy } from '../support/proxy.ts'
import { tokenOf } from '../support/server.ts'

export const transports = ['websocket', 'sse', 'poll'] as const

/** Says a word each time that it is let. */
function spoken() {
  let allowed = 0
  const waiting: (() => void)[] = []
  const reply: Reply = async function* ({ message }) {
    const said = textOf(message.parts as Parameters<typeof textOf>[0])
    if (!said.startsWith('slow')) return yield `Re ${said}`
    for (let word = 0; word < 12; word++) {
      while (allowed === 0) await new Promise<void>((resolve) => waiting.push(resolve))
      allowed--
      yield `${word} `
    }
  }
  const say = (words: number) => {
    allowed += words
    for (const resolve of waiting.splice(0)) resolve()
  }
  return { reply, say }
}

export async function openScene(options: Parameters<typeof openChat>[0] = {}) {
  const words = spoken()
  const opened = await openChat({ reply: words.reply, limits: { sendsPerMinute: 0 }, ...options })
  onTestFinished(() => words.say(10_000))
  const { hostname, port } = new URL(opened.url)
  const proxy = await startProxy({ target: { host: hostname, port: Number(port) } })
  onTestFinished(() => proxy.close())
  return { ...opened, ...words, proxy, through: `http://${proxy.host}:${proxy.port}` }
}

export function clientOf(
  { through }: { through: string },
  options: ClientOptions & { as?: string } = {},
): HoldfastClient {
  const { as = 'ann', ...rest } = options
  const client = createClient({
    url: through,
    token: () => tokenOf(as),
    storage: memoryStorage(),
    user: as,
    WebSocket: NodeSocket as never,
    ...rest,
  })
  onTestFinished(() => client.close())
  return client
}

/** Followed until the test ends; each state that it was in is looked at. */
export function watch(handle: SessionHandle) {
  const problems: string[] = []
  let texts = new Map<string, string>()
  const leave = handle.subscribe(() => {
    const { messages } = handle.getSnapshot()
    const now = new Map(messages.map(({ id, parts }) => [id, textOf(parts)]))
    for (const [id, text] of now) {
      if (!text.startsWith(texts.get(id) ?? '')) problems.push(`“${texts.get(id)}” became “${text}”`)
    }
    if (now.size !== messages.length) problems.push(`one is shown twice: ${messages.map(({ id }) => id)}`)
    texts = now
  })
  onTestFinished(leave)
  return { problems, leave }
}

export const shownBy = (handle: SessionHandle) =>
  handle.getSnapshot().messages.map(({ role, parts }) => `${role}: ${textOf(parts)}`)
export const stored = async ({ ann, session }: Chat) =>
  (await ann.snapshot(session)).messages.map(({ role, parts }) => `${role}: ${textOf(parts)}`)
export const isLive = (handle: SessionHandle) => eventually(async () => handle.getSnapshot().isLive)
