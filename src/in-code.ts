/**
 * What the app's own code asks for without a request: the same things as the routes, by the same functions, but with the
 * server's rights. Nobody is asked who they are: a session is found in its tenant, whoever its members are, and every
 * audience is seen. Where a `userId` is given it is that user who sends, or with whose eyes is read.
 *
 * What is asked for is held to what a request's body is held to (PROTOCOL, P3–P5, P79).
 */
import type { AnyEvents, EventTypes } from './core/app-event.ts'
import { type RequestCode, requestErrors } from './core/errors.ts'
import type { Json, JsonObject } from './core/json.ts'
import type { Message, MessageStatus, Turn } from './core/message.ts'
import type { SqlClient } from './http/outbox.ts'
import { problemOf } from './http/problem.ts'
import type { UserOrAssistantMessage } from './reply/message.ts'
import type { WhenBusy } from './store/accept.ts'
import type { Member } from './store/log.ts'
import type { Invite } from './store/members.ts'
import type { Present } from './store/presence.ts'
import type { Role, ServerSession, Session } from './store/sessions.ts'

type InTenant = {
  /** Defaults to `default`. */
  tenantId?: string
}

/** What a message says: a text, or parts of text and files. */
export type Content = { text: string; parts?: undefined } | { text?: undefined; parts: (TextPart | FilePart)[] }
type TextPart = { type: 'text'; text: string }
/** `url`: http or https. */
type FilePart = { type: 'file'; mediaType: string; url: string; filename?: string }

export type SendAsk = InTenant &
  Content & {
    /** Makes a second try safe: the same id with the same content is one message. Defaults to a new one. */
    id?: string
    /** Who sends it: a member of the session, and not a reader. */
    userId: string
    metadata?: JsonObject
    /** What becomes of it while another message is being answered. Defaults to `queue`. */
    whenBusy?: WhenBusy
    /** Waits so long for the outcome. 0–600,000. Defaults to 0. */
    waitMs?: number
    /** Ends the waiting, and nothing else. */
    signal?: AbortSignal
  }

/** `reply` is the whole message where its outcome was waited for and came in time; `'parts' in reply` tells. */
export type Sent<Metadata extends object = JsonObject> = {
  message: Message<Metadata>
  reply: { id: string; status: MessageStatus } | Message<Metadata>
  turn: Turn
  /** From where to follow what comes after it. */
  cursor: string
}

export type SayAsk<Metadata extends object = JsonObject> = InTenant &
  Content & {
    /** Makes a second try safe, as in `SendAsk`. Defaults to a new one. */
    id?: string
    metadata?: Metadata
    /**
     * The line of turns that it is said in; `user:ID` where the option `lane` gives authors their own, `private:ID` where that
     * user alone is to see it. Defaults to `main`.
     */
    lane?: 'main' | `user:${string}` | `private:${string}`
  }

export type Said<Metadata extends object = JsonObject> = { message: Message<Metadata>; cursor: string }

/** A message with its reply and turn as they are now, whoever changed them. */
export type Stand<Metadata extends object = JsonObject> = {
  message: Message<Metadata>
  reply: Message<Metadata>
  turn: Turn
  cursor: string
}

/** `withdrawn`: the message has left the conversation, and its text is its author's again. */
export type Stopped<Metadata extends object = JsonObject> = Stand<Metadata> & { withdrawn: boolean }

/** `before` and `after` are places to ask on from; null: nothing lies there. */
export type Page<T> = { data: T[]; before: string | null; after: string | null }

type PageAsk = {
  limit?: number
  /** A place that a page gave. Not together with `after`. */
  before?: string
  after?: string
}

/** As `useChat` takes it, in both majors of the AI SDK. */
export type UseChatMessage<Metadata extends object = JsonObject> = Omit<UserOrAssistantMessage, 'metadata'> & {
  metadata?: Metadata
}

/** Every function rejects with a `HoldfastError`. The first call starts the engine, as a request does. */
export type InCode<Metadata extends object = JsonObject, Events extends EventTypes = AnyEvents> = {
  sessions: {
    /** Makes a session that the user owns. With an id that they are a member of already: what is there. */
    create(ask: InTenant & { id?: string; userId: string; title?: string; metadata?: JsonObject }): Promise<Session>
    /** Null: there is none. With a `userId` also where that user is no member, and `unread` is theirs. */
    get(sessionId: string, ask?: InTenant & { userId?: string }): Promise<ServerSession | null>
    /** The user's sessions, last changed first. `limit` is 1–100, and defaults to 30. */
    list(
      ask: InTenant & { userId: string; limit?: number; before?: string; changedSince?: string | Date },
    ): Promise<Page<Session>>
    /** Followers get `session.updated`. `title: null` takes it away; `metadata` replaces what was there. */
    update(
      sessionId: string,
      changes: InTenant & { title?: string | null; metadata?: JsonObject },
    ): Promise<ServerSession>
    /** Everything that was said is gone. False: there was no such session. */
    delete(sessionId: string, ask?: InTenant): Promise<boolean>
  }
  messages: {
    /**
     * A page of what is shown, oldest first: the last one, or the one before or after a place. `limit` is 1–200, and
     * defaults to 50. With a `userId`: as far as that user may see; who is no member is told `not_found`.
     */
    list(sessionId: string, ask?: InTenant & PageAsk & { userId?: string }): Promise<Page<Message<Metadata>>>
    /**
     * What a page passes to `useChat` as `messages`: the last ones as the user may see them, without replies that are
     * not finished (the stream that `useChat` resumes brings them from their start) or hold nothing. Those that wait for
     * people are there, with what is asked: no stream is told of them. None where the user
     * has no such session: it is made by its first message. `limit` is 1–200, and defaults to 200.
     */
    forUseChat(
      sessionId: string,
      ask: InTenant & { userId: string; limit?: number },
    ): Promise<UseChatMessage<Metadata>[]>
  }
  /**
   * Stores a user's message; its reply is written in the background. It is not counted against
   * `limits.sendsPerMinute`, nor held up by it: the server may send as often as it likes.
   */
  send(sessionId: string, ask: SendAsk): Promise<Sent<Metadata>>
  /**
   * The assistant says something by itself, without a model: a message, complete at once, that all followers see. It
   * stands after everything that was accepted before it, also after replies that are still to be written, and is told to
   * the model with the messages that are sent after it. Nothing of it is usage.
   */
  say(sessionId: string, ask: SayAsk<Metadata>): Promise<Said<Metadata>>
  /**
   * Stops the reply to a user's message; its text so far is kept. Where it has an outcome already, that stays. With a
   * `userId` it is that user who stops it, by their rights: a message of their own that nobody has begun to answer is
   * withdrawn. Without, it is `by` `server`, and the message stays. `round`: only that one. `reason` (up to 200
   * characters) is told to followers.
   */
  stop(
    sessionId: string,
    messageId: string,
    ask?: InTenant & { userId?: string; round?: number; reason?: string },
  ): Promise<Stopped<Metadata>>
  /**
   * Answers an approval that a reply waits for. The first answer counts: the same one again changes nothing, and another
   * one rejects with `not_waiting`. With a `userId` it is that user who answers, by their rights; without, it is `by`
   * `server`. A user's yes to use more of a budget counts against `limits.sendsPerMinute`, the server's does not.
   * `reason` (up to 2,000 characters) is told to the model. `turnId`: only that turn's, where two have this id;
   * `attempt`: only what that attempt of it asked (`turn.attempt`), where a later one may have asked under this id again.
   */
  approve(
    sessionId: string,
    approvalId: string,
    ask: InTenant & { approved: boolean; reason?: string; userId?: string; turnId?: string; attempt?: number },
  ): Promise<Stand<Metadata>>
  /** Answers a call of a client's tool that a reply waits for, as `approve` does. `output` is JSON. */
  answerTool(sessionId: string, toolCallId: string, ask: ToolAnswerAsk): Promise<Stand<Metadata>>
  /** Who may see and do what in a session; `forbidden` where it would have no owner left. */
  members: {
    list(sessionId: string, ask?: InTenant): Promise<Member[]>
    /** With whom is a member already nothing changes. `role` defaults to `member`. A session has at most 100. */
    add(sessionId: string, ask: InTenant & { userId: string; role?: Role }): Promise<Member>
    change(sessionId: string, ask: InTenant & { userId: string; role: Role }): Promise<Member>
    /**
     * Their connections to the session end, what they have asked for is stopped, and what is private to them stays stored.
     * False: they were no member.
     */
    remove(sessionId: string, ask: InTenant & { userId: string }): Promise<boolean>
  }
  /** Who may become a member, by a secret that they are given: `POST /v1/invites/accept` takes it. */
  invites: {
    /**
     * `role` defaults to `member`, and nobody is made an owner. It is good for `expiresMs` (a minute to 30 days, 7 days where
     * nothing is said) and for `uses` people (1–100, defaults to 1). `token` is answered this once and stored nowhere.
     */
    create(
      sessionId: string,
      ask?: InTenant & { role?: 'member' | 'reader'; expiresMs?: number; uses?: number },
    ): Promise<Invite & { token: string }>
    /** Those that are good, without their tokens. */
    list(sessionId: string, ask?: InTenant): Promise<Invite[]>
    /** False: the session has no such invitation. */
    revoke(sessionId: string, inviteId: string, ask?: InTenant): Promise<boolean>
  }
  users: {
    /**
     * Nothing of them is left in any table, but what others were told, and the ledger's rows, under a name that says nothing
     * (PROTOCOL, P237). Whether they may come back is for `authenticate` to say.
     */
    delete(userId: string, ask?: InTenant): Promise<void>
    /**
     * What a guest of the app's own sign-in has becomes the account's, as of P231: check before that who asks is both. False: it is
     * another account's already.
     */
    merge(ask: InTenant & { guestId: string; userId: string }): Promise<boolean>
  }
  /** Who of its members is there just now, on whichever device and process: `here`, or `away` where all are in the background. */
  presence(sessionId: string, ask?: InTenant): Promise<Present[]>
  /** Answers a message again whose turn failed or was stopped; any other is left as it is. `round`: only that one. */
  retry(sessionId: string, messageId: string, ask?: InTenant & { round?: number }): Promise<Stand<Metadata>>
  /**
   * Publishes an event of the app's own in the session: every follower gets it live, and who was away when they are back. Its
   * name has a dot (`partner.signed_compact`); its data are JSON of up to 64 KB. Where the option `events` is given, the event
   * is one of those, and its schema is asked about the data.
   */
  publish<Name extends keyof Events & string>(
    sessionId: string,
    event: Name,
    data: Events[Name]['input'],
    ask?: PublishAsk,
  ): Promise<Published>
  outbox: {
    /**
     * Adds a job for the function of its topic (the option `jobs`), which gets the payload at least once, from a process with the
     * role `runner`. `payload` is JSON of up to 256 KB. Where the topic is one of this process's, its schema is asked about it.
     */
    add(topic: string, payload: unknown, ask?: AddAsk): Promise<{ id: string }>
  }
  /**
   * Tells one member of the session something: an event that they alone get, live or when they are back, and a notice on
   * their devices, unless one of these has read the event within `pushGraceMs`. Its name has a dot; `data` are an object
   * of up to 2,560 bytes of JSON, and go along with the notice whole. `id` makes a second try safe.
   */
  notify<Name extends keyof Events & string>(
    sessionId: string,
    userId: string,
    event: Name,
    data: Events[Name]['input'],
    ask?: InTenant & { id?: string },
  ): Promise<Published>
}

export type AddAsk = InTenant & {
  /** Of one topic what has the same key is done one after another, in the order in which it was added. Defaults to none. */
  key?: string
  /** Makes a second try safe: the same id in a topic is one job, for a week after it was done. Defaults to a new one. */
  id?: string
  /** Not before so long. 0 to 365 days. Defaults to 0. */
  delayMs?: number
  /**
   * The app's own connection (`pg`), to the same database: the job is added in its transaction, and only if that commits.
   * Defaults to one of Holdfast's.
   */
  client?: SqlClient
}

export type PublishAsk = InTenant & {
  /** Who gets it: one user (`user:ID`), or all but one (`not:ID`). Defaults to all members. */
  audience?: `user:${string}` | `not:${string}`
  /** As the audience `not:ID`. */
  excludeUserId?: string
  /** Makes a second try safe: within 30 days the same id with the same event is one event. Defaults to a new one. */
  id?: string
}

/** `cursor`: from where to follow what comes after the event. */
export type Published = { id: string; seq: number; cursor: string }

export type ToolAnswerAsk = InTenant & { userId?: string; turnId?: string; attempt?: number } & (
    | { output: Json; errorText?: undefined }
    | { output?: undefined; errorText: string }
  )

/** What went wrong, by one of the codes of PROTOCOL.md. `message` is a sentence for people. */
export class HoldfastError extends Error {
  override readonly name = 'HoldfastError'
  readonly code: RequestCode
  /** The HTTP status that a request would be answered with. */
  readonly status: number
  /** The same call may succeed later. Where it makes an id, repeat it only with an `id` of your own. */
  readonly retryable: boolean
  readonly retryAfterMs: number | undefined
  constructor(error: unknown) {
    const { code, message, retryable, retryAfterMs } = problemOf(error)
    super(message, { cause: error })
    this.code = code
    this.status = requestErrors[code].status
    this.retryable = retryable
    this.retryAfterMs = retryAfterMs
  }
  /** By its name: a second bundle of the same app has another class, and meets the errors of the one that runs. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof Error && value.name === 'HoldfastError'
  }
}
