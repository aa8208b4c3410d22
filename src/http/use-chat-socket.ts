/**
 * What `WebSocketChatTransport` of AI SDK 7 says on its socket: several requests at a time, each under an id that the client
 * made. PROTOCOL, P105 has the frames.
 *
 * `end` without `finish` would show half a reply as a whole one, so what breaks off ends with `error`. An `abort` comes also
 * when a component goes, and stops no turn.
 */
import * as z from 'zod'
import { idPattern } from '../core/ids.ts'
import type { Json } from '../core/json.ts'
import { limits } from '../core/limits.ts'
import { askingForReply } from './app.ts'
import { checked, parseJson } from './body.ts'
import { Problem, sentenceOf } from './problem.ts'
import type { Call, SocketRoute } from './route.ts'
import type { Socket } from './socket.ts'
import { type PairToTell, tellEach, type UiWriter } from './ui-reply.ts'
import { acceptChat, chatSocketAt, readChat, repliesToResume } from './use-chat.ts'

/** Of `body` what a transport's own body may say of a send; the rest of a frame is read where it is needed. */
const frameSchema = z.looseObject({
  type: z.string(),
  requestId: z.string().min(1).max(limits.requestIdCharactersMax),
  body: z.looseObject({}).catch({}),
})
type Frame = z.infer<typeof frameSchema>
type ToTell = { inSession: Call; pairs: PairToTell[] }

/** No other transport speaks this. */
const major = 7

const brokenOff = 'The connection to this reply broke off. Try again: nothing is done twice.'

export const chatSocket: SocketRoute = {
  ...chatSocketAt,
  frameBytesMax: limits.chatRequestBytesMax,
  makesGuests: true,
  speak({ call, socket, mustBeKnown }) {
    const open = new Map<string, AbortController>()
    /** Also those that were given up while they were accepted. */
    let serving = 0
    /** Of the request before: two messages of one page are stored in the order in which it said them. */
    let before = Promise.resolve()
    const inOrder = (frame: Frame): Promise<ToTell> => {
      const asked = before.then(async () => {
        await mustBeKnown()
        return await toTell(call, frame)
      })
      const over = () => undefined
      before = asked.then(over, over)
      return asked
    }
    socket.ended.addEventListener('abort', () => {
      for (const control of open.values()) control.abort()
    })

    async function serve(requestId: string, asked: Promise<ToTell>, control: AbortController): Promise<void> {
      const out = frameWriter(socket, requestId, control.signal)
      const release = socket.hold()
      serving++
      try {
        await tell(await asked, requestId, out, control.signal)
      } catch (error) {
        const { code, message } = call.refusalOf(error)
        if (code === 'unauthorized') socket.close(4401)
        else out.say({ type: 'error', requestId, errorText: message })
      } finally {
        // Where it was given up another may have its id by now.
        if (open.get(requestId) === control) open.delete(requestId)
        serving--
        release()
      }
    }

    return (text) => {
      const frame = readFrame(text)
      const { type, requestId } = frame
      const there = open.get(requestId)
      if (type === 'abort') {
        open.delete(requestId)
        there?.abort()
        return undefined
      }
      if (there !== undefined) throw new Problem('invalid_request', 'A requestId may be used again when it has ended.')
      const control = new AbortController()
      open.set(requestId, control)
      // The frame, which may hold a whole history, is not kept while its reply is told.
      const asked = serving >= limits.socketRequestsMax ? tooMany() : inOrder(frame)
      void serve(requestId, asked, control)
      return asked.catch(() => undefined)
    }
  },
}

async function tooMany(): Promise<never> {
  const most = `At most ${limits.socketRequestsMax} requests may be open on one socket.`
  throw new Problem('rate_limited', `${most} Wait until one has ended.`)
}

const unreadable = `Expected a frame of JSON with a "type" and a "requestId" of at most ${limits.requestIdCharactersMax} characters.`

function readFrame(text: string): Frame {
  try {
    return checked(parseJson(text), frameSchema)
  } catch {
    throw new Problem('invalid_request', unreadable)
  }
}

async function tell(
  { inSession, pairs }: ToTell,
  requestId: string,
  out: FrameWriter,
  left: AbortSignal,
): Promise<void> {
  if (pairs.length === 0) return out.say({ type: 'no-active', requestId })
  out.say({ type: 'start', requestId })
  const until = await tellEach(inSession, pairs, major, out, left)
  // After an `error` chunk the client is over with it, and the end is only said.
  if (until === 'cut') out.say({ type: 'error', requestId, errorText: brokenOff })
  else out.say({ type: 'end', requestId })
}

async function toTell(call: Call, frame: Frame): Promise<ToTell> {
  switch (frame.type) {
    case 'send':
      return await sent(call, frame)
    case 'resume':
      return await resumed(call, frame)
    default:
      throw new Problem('invalid_request', 'Expected a frame of type "send", "resume" or "abort".')
  }
}

async function sent(call: Call, { id, trigger, messageId, messages, body }: Frame): Promise<ToTell> {
  const { sessionId, asked } = readChat({ id, trigger, messageId, messages, whenBusy: body.whenBusy } as Json)
  const inSession = { ...call, params: { sessionId } }
  const done = await askingForReply(call.parts, () => acceptChat(inSession, asked))
  if ('refused' in done) throw new Problem('rate_limited', await sentenceOf(done.refused))
  return { inSession, pairs: [done.pair] }
}

/** Always from the beginning: `lastSequence` is of another request, and the numbers are the request's. */
async function resumed(call: Call, { id }: Frame): Promise<ToTell> {
  const inSession = { ...call, params: { sessionId: String(id) } }
  return { inSession, pairs: idPattern.test(String(id)) ? await repliesToResume(inSession) : [] }
}

type FrameWriter = UiWriter & { say(frame: object): void }

/** Says nothing any more once the request was given up. */
function frameWriter(socket: Socket, requestId: string, left: AbortSignal): FrameWriter {
  let sequence = 0
  const send = (frames: object[]) => {
    if (!left.aborted) socket.send(frames.map((frame) => JSON.stringify(frame)))
  }
  return {
    say: (frame) => send([frame]),
    tell: (chunks) => send(chunks.map((chunk) => ({ type: 'chunk', requestId, sequence: sequence++, chunk }))),
    isFull: socket.isFull,
    whenDrained: socket.whenDrained,
  }
}
