/**
 * What the app's own code asks for without a request: the same things as the routes, by the same functions, but with the
 * server's rights. Nobody is asked who they are: a session is found in its tenant, whoever its members are, and every
 * audience is seen. Where a `userId` is given it is that user who sends, or with whose eyes is read.
 *
 * What is asked for is held to what a request's body is held to (PROTOCOL, P3–P5, P79).
 */
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import type { AnyEvents, EventTypes } from './core/app-event.ts'
import { type RequestCode, requestErrors } from './core/errors.ts'
import type { Json, JsonObject } from './core/json.ts'
import { limits } from './core/limits.ts'
import type { Message, MessageStatus, Turn } from './core/message.ts'
import { askingForReply } from './http/app.ts'
import { publishEvent, publishSchema } from './http/app-events.ts'
import {
  approvalFields,
  approvalOf,
  hasOneResult,
  oneResultSentence,
  resultFields,
  takeAnswer,
  toolResultOf,
} from './http/approvals.ts'
import { idSchema, metadataSchema, nameSchema, readValue } from './http/body.ts'
import { retryTurn, stopReply, tell } from './http/control.ts'
import { add, change, invite, inviteFields, invitesOf, membersOf, remove, revoke, roleSchema } from './http/members.ts'
import {
  contentOf,
  contentSchema,
  cursorAfter,
  eitherSentence,
  hasEither,
  historyPage,
  historySchema,
  sendSchema,
  standOf,
  surely,
  takeMessage,
} from './http/messages.ts'
import { notifySchema, notifyUser } from './http/notify.ts'
import { addJob, addSchema, type SqlClient } from './http/outbox.ts'
import { whoIsThere } from './http/people.ts'
import { defaultTenant, isName } from './http/principal.ts'
import { Problem, problemOf } from './http/problem.ts'
import { tooManySendsProblem } from './http/rate.ts'
import type { HttpParts, Within } from './http/route.ts'
import { listSchema, sessionPage, tellCreated, titleSchema } from './http/sessions.ts'
import { replyMessage, type UserOrAssistantMessage } from './reply/message.ts'
import type { WhenBusy } from './store/accept.ts'
import type { Member } from './store/log.ts'
import type { Invite } from './store/members.ts'
import { messagePage, type Pair } from './store/messages.ts'
import type { Present } from './store/presence.ts'
import { say } from './store/say.ts'
import {
  createSession,
  deleteSessionAsServer,
  type Role,
  readSession,
  type ServerSession,
  type Session,
  updateSession,
} from './store/sessions.ts'
import { eraseUser, mergeGuest } from './transfer/hand-over.ts'

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

const nobodySchema = nameSchema.nullable().default(null)
const newIdSchema = idSchema.default(() => uuidv7())
/** No larger than the database's `int`. */
const roundField = z.number().int().min(1).max(2_147_483_647).nullable().default(null)
const inSession = { tenantId: nameSchema.default(defaultTenant), sessionId: idSchema }
const ofMessage = { ...inSession, messageId: idSchema, round: roundField }

const createSchema = z.strictObject({
  tenantId: inSession.tenantId,
  id: newIdSchema,
  userId: nameSchema,
  title: titleSchema.nullable().default(null),
  metadata: metadataSchema.default({}),
})
const getSchema = z.strictObject({ ...inSession, userId: nobodySchema })
const sessionListSchema = z.strictObject({ tenantId: inSession.tenantId, userId: nameSchema, ...listSchema.shape })
const updateSchema = z
  .strictObject({ ...inSession, title: titleSchema.nullable().optional(), metadata: metadataSchema.optional() })
  .refine(({ title, metadata }) => title !== undefined || metadata !== undefined, 'expected "title" or "metadata"')
const deleteSchema = z.strictObject(inSession)
const messageListSchema = historySchema.safeExtend({ ...inSession, userId: nobodySchema }).strict()
const useChatSchema = z.strictObject({
  ...inSession,
  userId: nameSchema,
  limit: z.number().int().min(1).max(limits.messagePageMax).default(limits.messagePageMax),
})
const sendAskSchema = z
  .strictObject({
    ...sendSchema.shape,
    ...inSession,
    id: newIdSchema,
    userId: nameSchema,
    waitMs: z.number().min(0).max(600_000).default(0),
  })
  .refine(hasEither, eitherSentence)
const laneSchema = z
  .string()
  .refine(
    (lane) => lane === 'main' || isName(/^(?:user|private):(.*)$/s.exec(lane)?.[1]),
    'expected main, user:ID or private:ID',
  )
const sayAskSchema = z
  .strictObject({ ...contentSchema.shape, ...inSession, id: newIdSchema, lane: laneSchema.default('main') })
  .refine(hasEither, eitherSentence)
/** Clients take these for what the server means by them: by `withdrawn` the message goes away. */
const ownReasons = ['withdrawn', 'steered', 'interrupted', 'budget', 'removed']
const reasonSchema = z
  .string()
  .min(1)
  .max(200)
  .refine((reason) => !ownReasons.includes(reason), `expected another than ${ownReasons.join(', ')}`)
const stopSchema = z.strictObject({
  ...ofMessage,
  userId: nobodySchema,
  reason: reasonSchema.nullable().default(null),
})
const retrySchema = z.strictObject(ofMessage)
const sessionSchema = z.strictObject(inSession)
const userSchema = z.strictObject({ userId: nameSchema, tenantId: inSession.tenantId })
const mergeSchema = userSchema.safeExtend({ guestId: nameSchema })
const memberChangeSchema = z.strictObject({ ...inSession, userId: nameSchema, role: roleSchema })
const memberAskSchema = z.strictObject({ ...inSession, userId: nameSchema, role: roleSchema.default('member') })
const memberRemoveSchema = z.strictObject({ ...inSession, userId: nameSchema })
const inviteAskSchema = z.strictObject({ ...inSession, ...inviteFields })
const revokeSchema = z.strictObject({ ...inSession, inviteId: z.string() })
const notifyAskSchema = notifySchema.safeExtend(inSession)
const publishAskSchema = publishSchema.safeExtend(inSession)
/** Whatever its provider calls it: no path has to hold it. */
const askedId = z.string().min(1).max(1_000)
const approveSchema = z.strictObject({ ...inSession, userId: nobodySchema, approvalId: askedId, ...approvalFields })
const answerToolSchema = z
  .strictObject({ ...inSession, userId: nobodySchema, toolCallId: askedId, ...resultFields })
  .refine(hasOneResult, oneResultSentence)

/** Who has stopped a reply, as followers are told. */
const server = 'server'

/** `parts` starts the engine. What is answered is JSON of the store, whose metadata are what the app has declared. */
export function inCode<Metadata extends object>(parts: () => Promise<HttpParts>): InCode<Metadata, AnyEvents> {
  return {
    sessions: {
      create: failing(async (ask) => {
        const values = readValue(ask, createSchema)
        const own = await parts()
        const created = await createSession(own.database, values)
        if (created.outcome === 'created') tellCreated(own, values.tenantId, values.id)
        if (created.outcome !== 'conflict') return created.session
        throw new Problem('id_conflict', 'A session has or had this id. Choose a new id.')
      }),
      get: failing(async (sessionId, ask) => {
        const { tenantId, userId } = readValue({ ...ask, sessionId }, getSchema)
        return await readSession((await parts()).database, tenantId, sessionId, userId)
      }),
      list: failing(async (ask) => {
        const { tenantId, userId, ...page } = readValue(ask, sessionListSchema)
        return await sessionPage((await parts()).database, { tenantId, userId }, page)
      }),
      update: failing(async (sessionId, ask) => {
        const { tenantId, sessionId: id, ...changes } = readValue({ ...ask, sessionId }, updateSchema)
        const { database, wakeups } = await parts()
        const updated = await updateSession(database, tenantId, id, changes)
        if (updated.outcome === 'not_found') throw new Problem('not_found')
        wakeups.tell({ tenantId, sessionId, events: [updated.event], runs: [], due: false })
        return updated.session
      }),
      delete: failing(async (sessionId, ask) => {
        const { tenantId } = readValue({ ...ask, sessionId }, deleteSchema)
        const { database, wakeups } = await parts()
        const { outcome, members } = await deleteSessionAsServer(database, tenantId, sessionId)
        if (outcome === 'not_found') return false
        // Followers look, and find nothing.
        wakeups.tell({ tenantId, sessionId, events: [], runs: [], due: false, members })
        return true
      }),
    },
    messages: {
      list: failing(async (sessionId, ask) => {
        const { tenantId, userId, ...page } = readValue({ ...ask, sessionId }, messageListSchema)
        const own = await parts()
        if ((await readSession(own.database, tenantId, sessionId, userId)) === null) throw new Problem('not_found')
        return (await historyPage(within(own, tenantId, sessionId, userId), page)) as Page<Message<Metadata>>
      }),
      forUseChat: failing(async (sessionId, ask) => {
        const { tenantId, userId, limit } = readValue({ ...ask, sessionId }, useChatSchema)
        const own = await parts()
        if ((await readSession(own.database, tenantId, sessionId, userId)) === null) return []
        const page = await messagePage(own.database, { tenantId, sessionId, userId, limit, from: null })
        const waiting = new Set(page.waiting)
        const shown = page.messages.filter((message) => isWhole(message) || waiting.has(message.id))
        return shown.map(replyMessage) as UseChatMessage<Metadata>[]
      }),
    },
    send: failing(async (sessionId, { signal, ...ask }) => {
      const { tenantId, userId, waitMs, ...body } = readValue({ ...ask, sessionId }, sendAskSchema)
      const own = within(await parts(), tenantId, sessionId, userId)
      return await askingForReply(own.parts, async () => {
        const taken = await takeMessage(own, body, { sendsMax: 0 })
        if (taken.outcome === 'rate_limited') throw new Problem('rate_limited')
        const { json, seq, created } = taken
        const what = { tenantId, sessionId, userId, messageId: body.id, created }
        const pair = await own.parts.waiting.outcome(what, waitMs, signal ?? new AbortController().signal)
        if (pair !== null) return standIn<Metadata>(own, pair)
        return { ...JSON.parse(json), cursor: cursorAfter(own, seq) } as Sent<Metadata>
      })
    }),
    say: failing(async (sessionId, ask) => {
      const { tenantId, lane, ...content } = readValue({ ...ask, sessionId }, sayAskSchema)
      const own = within(await parts(), tenantId, sessionId, null)
      const saying = { tenantId, sessionId, ...(await contentOf(null, content)), messageId: content.id, lane }
      const said = await surely(() => say(own.parts.database, saying))
      if (said.outcome === 'not_found') throw new Problem('not_found')
      if (said.outcome === 'conflict') {
        throw new Problem('id_conflict', 'This message id was used for another message. Give every message a new id.')
      }
      if (said.outcome === 'said') tell(own, said.event)
      return { message: said.message as Message<Metadata>, cursor: cursorAfter(own, said.seq) }
    }),
    stop: failing(async (sessionId, messageId, ask) => {
      const { tenantId, userId, reason, round } = readValue({ ...ask, sessionId, messageId }, stopSchema)
      const own = within(await parts(), tenantId, sessionId, userId)
      const { pair, withdrawn } = await stopReply(own, messageId, { by: userId ?? server, reason, round })
      return { ...standIn<Metadata>(own, pair), withdrawn }
    }),
    approve: failing(async (sessionId, approvalId, ask) => {
      const { tenantId, userId, turnId, attempt, ...said } = readValue({ ...ask, sessionId, approvalId }, approveSchema)
      const own = within(await parts(), tenantId, sessionId, userId)
      const answering = () => takeAnswer(own, approvalOf(approvalId, said), turnId ?? null, userId ?? server, attempt)
      return standIn<Metadata>(own, pairOf(await askingForReply(own.parts, answering)))
    }),
    answerTool: failing(async (sessionId, toolCallId, ask) => {
      const { tenantId, userId, turnId, attempt, ...said } = readValue(
        { ...ask, sessionId, toolCallId },
        answerToolSchema,
      )
      const own = within(await parts(), tenantId, sessionId, userId)
      const answering = () => takeAnswer(own, toolResultOf(toolCallId, said), turnId ?? null, userId ?? server, attempt)
      return standIn<Metadata>(own, pairOf(await askingForReply(own.parts, answering)))
    }),
    users: {
      delete: failing(async (userId, ask) => {
        await eraseUser(await parts(), readValue({ ...ask, userId }, userSchema))
      }),
      merge: failing(async (ask) => {
        const asked = readValue(ask, mergeSchema)
        if (asked.guestId === asked.userId) throw new Problem('invalid_request', 'The guest and the account are one.')
        return (await mergeGuest(await parts(), asked)) !== null
      }),
    },
    members: {
      list: failing(async (sessionId, ask) => {
        const { tenantId } = readValue({ ...ask, sessionId }, sessionSchema)
        const own = await parts()
        return await membersOf(await withinOneThere(own, tenantId, sessionId))
      }),
      add: failing(async (sessionId, ask) => {
        const { tenantId, ...member } = readValue({ ...ask, sessionId }, memberAskSchema)
        return (await add(within(await parts(), tenantId, sessionId, null), member)).member
      }),
      change: failing(async (sessionId, ask) => {
        const { tenantId, ...member } = readValue({ ...ask, sessionId }, memberChangeSchema)
        return await change(within(await parts(), tenantId, sessionId, null), member)
      }),
      remove: failing(async (sessionId, ask) => {
        const { tenantId, userId } = readValue({ ...ask, sessionId }, memberRemoveSchema)
        return (await remove(within(await parts(), tenantId, sessionId, null), userId)) === 'removed'
      }),
    },
    invites: {
      create: failing(async (sessionId, ask) => {
        const { tenantId, role, expiresMs, uses } = readValue({ ...ask, sessionId }, inviteAskSchema)
        return await invite(within(await parts(), tenantId, sessionId, null), { role, expiresMs, uses })
      }),
      list: failing(async (sessionId, ask) => {
        const { tenantId } = readValue({ ...ask, sessionId }, sessionSchema)
        return await invitesOf(await withinOneThere(await parts(), tenantId, sessionId))
      }),
      revoke: failing(async (sessionId, inviteId, ask) => {
        const { tenantId } = readValue({ ...ask, sessionId, inviteId }, revokeSchema)
        return await revoke(await withinOneThere(await parts(), tenantId, sessionId), inviteId)
      }),
    },
    presence: failing(async (sessionId, ask) => {
      const session = readValue({ ...ask, sessionId }, sessionSchema)
      const own = await parts()
      await withinOneThere(own, session.tenantId, sessionId)
      return await whoIsThere(own, session)
    }),
    retry: failing(async (sessionId, messageId, ask) => {
      const { tenantId, round } = readValue({ ...ask, sessionId, messageId }, retrySchema)
      const own = within(await parts(), tenantId, sessionId, null)
      const done = await askingForReply(own.parts, () => retryTurn(own, messageId, round))
      if ('refused' in done) throw new Problem('rate_limited')
      return standIn<Metadata>(own, done.pair)
    }),
    publish: failing(async (sessionId, event, data, ask) => {
      const { tenantId, ...publishing } = readValue({ ...ask, sessionId, event, data }, publishAskSchema)
      const own = await parts()
      const { seq } = await publishEvent(own, { tenantId, sessionId }, publishing)
      return { id: publishing.id, seq, cursor: cursorAfter({ parts: own }, seq) }
    }),
    outbox: {
      add: failing(async (topic, payload, { client, ...ask } = {}) => {
        const adding = readValue({ ...ask, topic, payload }, addSchema)
        await addJob(await parts(), adding, client)
        return { id: adding.id }
      }),
    },
    notify: failing(async (sessionId, userId, event, data, ask) => {
      const { tenantId, ...notice } = readValue({ ...ask, sessionId, userId, event, data }, notifyAskSchema)
      const own = await parts()
      const { seq } = await notifyUser(own, { tenantId, sessionId }, notice)
      return { id: notice.id, seq, cursor: cursorAfter({ parts: own }, seq) }
    }),
  }
}

function pairOf(taken: Awaited<ReturnType<typeof takeAnswer>>): Pair {
  if ('tooMany' in taken) throw tooManySendsProblem(taken.tooMany, taken.messageId)
  return taken.pair
}

function failing<Ask extends unknown[], Answer>(work: (...ask: Ask) => Promise<Answer>) {
  return async (...ask: Ask): Promise<Answer> => {
    try {
      return await work(...ask)
    } catch (error) {
      throw new HoldfastError(error)
    }
  }
}

/** As a route's call has it. */
function within<User extends string | null>(
  parts: HttpParts,
  tenantId: string,
  sessionId: string,
  userId: User,
): Within<User> {
  return { parts, params: { sessionId }, principal: { tenantId, userId } }
}

/** Rejects where there is no such session. */
async function withinOneThere(parts: HttpParts, tenantId: string, sessionId: string): Promise<Within<null>> {
  if ((await readSession(parts.database, tenantId, sessionId, null)) === null) throw new Problem('not_found')
  return within(parts, tenantId, sessionId, null)
}

function standIn<Metadata extends object>(own: Within<string | null>, pair: Pair): Stand<Metadata> {
  return standOf(own, pair) as Stand<Metadata>
}

function isWhole({ role, status, parts }: Message): boolean {
  return role === 'user' || (status !== 'pending' && status !== 'streaming' && parts.length > 0)
}
