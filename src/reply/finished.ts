import type { JsonObject } from '../core/json.ts'
import type { Message } from '../core/message.ts'
import type { UserOrAssistantMessage } from './message.ts'
import type { ReplyContext } from './reply.ts'

/**
 * What a reply was asked with. `messages` ends with `message` and what was handed to the reply while it was written
 * (`steering`), also where a reply was continued.
 */
export type Asked = Pick<ReplyContext, 'messages' | 'message' | 'session' | 'user' | 'turn' | 'attempt' | 'replyId'>

export type FinishedContext = Asked & {
  /** Aborted when nobody waits for the answer any more: it took too long, or the turn is not this attempt's. */
  signal: AbortSignal
}

/** The reply as it will be stored; a copy, so nothing that is done to it changes what is. */
export type FinishedReply = UserOrAssistantMessage & { model: string | null }

/**
 * The app's function that says something about a finished reply: a JSON object, stored as the message's metadata and
 * published with it. Called when the provider has said that the reply ended, before that is stored; the user waits
 * meanwhile, with the whole text on the screen. It has no side effects: after a crash it runs again, and what it answered
 * before may be nowhere. Without an answer within `onReplyMs`, or with one that is no JSON object of at most 32 KB, the
 * reply is stored without it.
 *
 * Metadata that came in chunks is kept beside it; where both have a field, this one's is taken.
 */
export type OnReply<Metadata extends object = object> = (
  reply: FinishedReply,
  context: FinishedContext,
) => Maybe<Metadata> | Promise<Maybe<Metadata>>

// biome-ignore lint/suspicious/noConfusingVoidType: a function that answers nothing is one of them
type Maybe<Metadata> = Metadata | null | undefined | void

/**
 * The app's function that gives a session its title: called once, after the session's first complete reply, if it has no
 * title by then. Nothing waits for it, and a title that a person gives meanwhile is kept. Null: none. It is cut to 200
 * characters. A crash may lose the call or, if it comes before the title is stored, the title; it is not asked for again.
 */
export type Title = (context: TitleContext) => string | null | undefined | Promise<string | null | undefined>

/** `messages` ends with the reply. */
export type TitleContext = Pick<FinishedContext, 'messages' | 'session' | 'user' | 'signal'>

/** The `data` of `message.ai_response`, as an app's client reads it: the app's metadata stands beside the message. */
export type AiResponse<Metadata extends object = JsonObject> = Metadata & { message: Message }
