/**
 * What a client's types take from `typeof chat`, the server's `createHoldfast(…)`, by a type-only import: no code of the
 * server comes along. Without it (`unknown`) metadata and parts are any JSON.
 */
import type { EventTypes } from '../core/app-event.ts'
import type { Part } from '../core/chunk.ts'
import type { Failure } from '../core/errors.ts'
import type { JsonObject } from '../core/json.ts'
import type { KnownPart, ToolTypes } from '../core/known-part.ts'
import type { Message, MessageStatus, Session, Turn } from '../core/message.ts'
import type { Member } from '../core/view.ts'

export type MetadataOf<Chat> = Chat extends { readonly '~types'?: { metadata: infer Metadata extends object } }
  ? Metadata
  : JsonObject
export type PartOf<Chat> = Chat extends { readonly '~types'?: { tools: infer Tools extends ToolTypes } }
  ? KnownPart<Tools>
  : Part
export type MessageOf<Chat> = Message<MetadataOf<Chat>, PartOf<Chat>>

/** The data of the app's own events that are declared (the option `events`), by their names. */
export type AppEventData<Chat> = Chat extends { readonly '~types'?: { events: infer Events extends EventTypes } }
  ? string extends keyof Events
    ? object
    : { [Name in keyof Events]: Events[Name]['output'] }
  : object

/** The data of the events of PROTOCOL.md, by their types, and of the app's own. */
export type EventData<Chat = unknown> = AppEventData<Chat> & {
  'message.created': { message: MessageOf<Chat>; reply: { id: string; status: MessageStatus }; turn: Turn }
  'message.said': { message: MessageOf<Chat> }
  /** The app's metadata stands in the message, and beside it. */
  'message.ai_response': { message: MessageOf<Chat> } & Partial<MetadataOf<Chat>>
  'message.error': Failure & { userMessageId: string; message: MessageOf<Chat> }
  'message.stopped': {
    userMessageId: string
    message: MessageOf<Chat>
    by: string | null
    reason?: string
    said?: string
    replyId?: string
  }
  'message.changed': { message: MessageOf<Chat> }
  'turn.waiting': { turn: Turn; message: MessageOf<Chat> }
  'session.updated': { session: Session }
  'member.joined': { member: Member & { role: MemberRole }; by: string }
  'member.changed': { member: Member & { role: MemberRole }; by: string }
  'member.left': { userId: string; by: string; reason: 'left' | 'removed' | 'merged' }
}

export type MemberRole = 'owner' | 'member' | 'reader'

/** The app's functions by the event's type, and `'*'` for all of them. */
export type Handlers<Chat, Rest extends unknown[], Answer = void> = {
  [Type in keyof EventData<Chat>]?: (data: EventData<Chat>[Type], ...rest: Rest) => Answer
} & AnyHandlers<Rest, Answer>
export type AnyHandlers<Rest extends unknown[], Answer = void> = {
  [type: string]: ((data: never, ...rest: Rest) => Answer) | undefined
}
