/**
 * Replies told to `useChat`: follows the log for each of them in turn and writes the chunks that `core/ui-follower` makes
 * of it, as server-sent events or as frames of a socket (use-chat-socket.ts). Of server-sent events everything but chunks is
 * a comment, because such a client reads all that `data:` holds. A stream that ends before its reply did is cut, never ended.
 */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Chunk } from '../core/chunk.ts'
import type { Message } from '../core/message.ts'
import type { SdkMajor } from '../core/ui-chunks.ts'
import { createUiFollower, hasEnded, type ReplyEventData, type UiFollower } from '../core/ui-follower.ts'
import type { Follow, Sink } from '../log/hub.ts'
import type { Pair } from '../store/messages.ts'
import { endAt } from './principal.ts'
import { type Call, sessionOf } from './route.ts'
import { nodeWriter, sseHeaders, type Writer, webWriter } from './sse.ts'

const heartbeatMs = 15_000
const headers = { ...sseHeaders, 'x-vercel-ai-ui-message-stream': 'v1' }

/**
 * `goesOnAfter`: the client has been told the reply up to the `turn.waiting` of this seq, and has answered that. `gave`: the
 * ids of the calls that it shows so answered.
 */
export type PairToTell = Pair & { goesOnAfter?: number; gave?: readonly string[] }

/** The answer is begun now, and holds these replies one after the other. More than one only for a page that was loaded. */
export function tellReplies(
  call: Call,
  pairs: readonly PairToTell[],
  major: SdkMajor,
  more: Record<string, string> = {},
): Response {
  const { outgoing, request, setCookie } = call
  const all = { ...headers, ...more, ...(outgoing && setCookie ? { 'set-cookie': setCookie } : {}) }
  const left = new AbortController()
  const leave = () => left.abort()
  if (outgoing) {
    outgoing.writeHead(200, all)
    outgoing.on('close', leave)
    outgoing.on('error', leave)
    // Who left while it was accepted has been told so already.
    if (outgoing.destroyed) leave()
    write(call, pairs, major, nodeWriter(outgoing), left)
    return RESPONSE_ALREADY_SENT
  }
  const web = webWriter(leave)
  request.signal.addEventListener('abort', leave)
  if (request.signal.aborted) leave()
  write(call, pairs, major, web.writer, left)
  return new Response(web.stream, { headers: all })
}

function write(call: Call, pairs: readonly PairToTell[], major: SdkMajor, writer: Writer, left: AbortController): void {
  // The first bytes say that the message is stored, long before there is a reply.
  writer.write(': accepted\n\n')
  const heartbeat = setInterval(() => writer.isFull() || writer.write(': still here\n\n'), heartbeatMs)
  const expires = endAt(call.principal.expiresAt, () => left.abort())
  const ui: UiWriter = {
    ...writer,
    tell: (chunks) => writer.write(chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('')),
  }
  const end = (whole: boolean) => {
    clearInterval(heartbeat)
    clearTimeout(expires)
    if (whole) writer.write('data: [DONE]\n\n')
    if (whole) writer.end()
    else writer.cut()
  }
  tellEach(call, pairs, major, ui, left.signal).then(
    (how) => end(how !== 'cut'),
    () => end(false),
  )
}

/** Where the chunks of replies go. Bounded by `isFull`, `whenDrained`: nothing is read for one that is full. */
export type UiWriter = { tell(chunks: readonly Chunk[]): void; isFull(): boolean; whenDrained(): Promise<void> }

/** To its end; to the `error` chunk that it ended with; or only to where the telling broke off. */
export type ToldUntil = 'whole' | 'failed' | 'cut'

/** Tells these replies one after the other. After an error such a client reads nothing more, so nothing more is told. */
export async function tellEach(
  call: Call,
  pairs: readonly PairToTell[],
  major: SdkMajor,
  writer: UiWriter,
  left: AbortSignal,
): Promise<ToldUntil> {
  for (const pair of pairs) {
    const until = await tellReply(call, pair, major, writer, left)
    if (until !== 'whole') return until
  }
  return 'whole'
}

async function tellReply(
  call: Call,
  { message, reply, replyTurnId: turnId, goesOnAfter, gave }: PairToTell,
  major: SdkMajor,
  writer: UiWriter,
  left: AbortSignal,
): Promise<ToldUntil> {
  const goesOn = goesOnAfter !== undefined
  const follower = createUiFollower(reply.id, major, { goesOn, gave })
  let failed = false
  const say = (chunks: Chunk[]) => {
    if (chunks.length === 0) return
    failed ||= chunks.at(-1)!.type === 'error'
    writer.tell(chunks)
  }
  if (hasEnded(reply) && !goesOn) {
    // Asked here, right before it is said: many wait for the same writer, and the first that has room fills it again.
    while (writer.isFull() && !left.aborted) await drainedOrLeft(writer, left)
    if (left.aborted) return 'cut'
    say(follower.stands(message, reply))
  } else if (
    !(await followReply(call, { turnId, from: followFrom(reply, goesOnAfter) }, follower, say, writer, left))
  ) {
    return 'cut'
  }
  return failed ? 'failed' : 'whole'
}

function drainedOrLeft(writer: UiWriter, left: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      left.removeEventListener('abort', done)
      resolve()
    }
    left.addEventListener('abort', done)
    void writer.whenDrained().then(done)
  })
}

/** From the event that made the reply, or from the `turn.waiting` on, which is told with it. */
export function followFrom(reply: Message, goesOnAfter: number | undefined): number {
  return goesOnAfter === undefined ? reply.seq : goesOnAfter - 1
}

/** What was missed and what comes are the same log. */
function followReply(
  call: Call,
  { turnId, from }: { turnId: string; from: number },
  follower: UiFollower,
  say: (chunks: Chunk[]) => void,
  writer: UiWriter,
  left: AbortSignal,
): Promise<boolean> {
  const { hub } = call.parts
  return new Promise((resolve) => {
    let following: Follow | null = null
    let isOver = false
    // One for all that asks while it is full: each flush does.
    let draining: Promise<void> | null = null
    const room = () => {
      if (!writer.isFull()) return null
      draining ??= drainedOrLeft(writer, left).then(() => {
        draining = null
      })
      return draining
    }
    const over = (whole: boolean) => {
      if (isOver) return
      isOver = true
      left.removeEventListener('abort', gone)
      following?.stop()
      resolve(whole)
    }
    const gone = () => over(false)
    const sink: Sink = {
      send(frames) {
        for (const { item } of frames) {
          if (isOver) return
          if ('run' in item) {
            if (item.run.turnId === turnId) say(follower.chunks(JSON.parse(item.run.json) as Chunk[]))
          } else if (item.event.turnId === turnId) {
            say(follower.event(item.event.type, JSON.parse(item.event.json) as ReplyEventData))
          }
          if (follower.isOver) over(true)
        }
      },
      control(word) {
        if (word.type !== 'caught-up') return over(false)
        say(follower.caughtUp())
        if (follower.isOver) over(true)
      },
      room,
      end: gone,
    }
    left.addEventListener('abort', gone)
    if (left.aborted) return gone()
    const cursor = { epoch: hub.epoch(), seq: from, open: new Map() }
    hub.follow({ ...sessionOf(call), cursor }, sink).then((begun) => {
      following = begun
      if (begun === null || isOver) {
        begun?.stop()
        gone()
      }
    }, gone)
  })
}
