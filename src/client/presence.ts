/**
 * Who else is there, in a session that is shown: as the server says when it is followed, and each minute, and as frames tell in
 * between. Apart from the client, so that a page that shows nobody loads nothing of it.
 */
import type { SessionHandle } from './session.ts'
import { createStore, type Readable } from './store.ts'
import { wires } from './wires.ts'

/** `away`: all devices of theirs that follow the session are in the background. Who is gone is not there. */
export type PresentMember = { userId: string; state: 'here' | 'away' }

/** What `createClient` makes. */
type Client = { session(id: string): SessionHandle }

/** Before anything is known. */
export const nobody: readonly PresentMember[] = []
/** What passes by may be lost. */
const againMs = 60_000
const answerMs = 10_000
const readables = new WeakMap<Client, Map<string, Readable<readonly PresentMember[]>>>()

/** The same for the same session. The session is followed while somebody has subscribed. */
export function presenceOf(client: Client, sessionId: string): Readable<readonly PresentMember[]> {
  const known = readables.get(client) ?? new Map<string, Readable<readonly PresentMember[]>>()
  readables.set(client, known)
  const readable = known.get(sessionId) ?? createPresence(client, sessionId)
  known.set(sessionId, readable)
  return readable
}

function createPresence(client: Client, sessionId: string): Readable<readonly PresentMember[]> {
  const handle = client.session(sessionId)
  const path = `/v1/sessions/${encodeURIComponent(sessionId)}/presence`
  let present = new Map<string, PresentMember['state']>()
  /** Told while an answer is on its way, which may be older. */
  let meanwhile: [userId: string, state: string][] = []
  let reading: AbortController | null = null
  let isLive = false
  let again: ReturnType<typeof setTimeout> | undefined

  const show = () => store.set([...present].map(([userId, state]) => ({ userId, state })))
  const take = ([userId, state]: (typeof meanwhile)[number]) => {
    if (state === 'here' || state === 'away') present.set(userId, state)
    else present.delete(userId)
  }
  const stop = () => {
    reading?.abort()
    reading = null
    clearTimeout(again)
  }
  const read = async () => {
    stop()
    again = setTimeout(() => void read(), againMs)
    const control = new AbortController()
    reading = control
    meanwhile = []
    // What the server refuses, or does not answer, it is asked for again.
    const answer = await wires
      .get(client)
      ?.askOnce(path, {}, control.signal, answerMs)
      .catch(() => undefined)
    if (reading !== control) return
    reading = null
    const { presence } = (answer ?? {}) as { presence?: PresentMember[] }
    if (!Array.isArray(presence)) return
    present = new Map(presence.map(({ userId, state }) => [userId, state]))
    meanwhile.forEach(take)
    show()
  }
  const store = createStore<readonly PresentMember[]>(nobody, () => {
    const deaf = handle.onFrame((frame) => {
      if (frame.type !== 'presence') return
      const { userId, state } = (frame as { data: { [key: string]: unknown } }).data
      const word: (typeof meanwhile)[number] = [String(userId), String(state)]
      meanwhile.push(word)
      take(word)
      show()
    })
    const looked = () => {
      const before = isLive
      isLive = handle.getSnapshot().isLive
      if (isLive && !before) void read()
      if (!isLive && before) stop()
    }
    const leave = handle.subscribe(looked)
    looked()
    return () => {
      deaf()
      leave()
      stop()
      isLive = false
      present.clear()
      store.set(nobody)
    }
  })
  return store
}
