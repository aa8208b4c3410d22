/** What `InCode` says, done: each call is read, and answered by the function that its route is answered by. */
import { v7 as uuidv7 } from 'uuid'
import * as z from 'zod'
import type { AnyEvents } from './core/app-event.ts'
import { limits } from './core/limits.ts'
import type { Message } from './core/message.ts'
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
import { addJob, addSchema } from './http/outbox.ts'
import { whoIsThere } from './http/people.ts'
import { defaultTenant, isName } from './http/principal.ts'
import { Problem } from './http/problem.ts'
import { tooManySendsProblem } from './http/rate.ts'
import type { HttpParts, Within } from './http/route.ts'
import { listSchema, sessionPage, tellCreated, titleSchema } from './http/sessions.ts'
import { HoldfastError, type InCode, type Page, type Sent, type Stand, type UseChatMessage } from './in-code.ts'
import { replyMessage } from './reply/message.ts'
import { messagePage, type Pair } from './store/messages.ts'
import { say } from './store/say.ts'
import { createSession, deleteSessionAsServer, readSession, updateSession } from './store/sessions.ts'
import { eraseUser, mergeGuest } from './transfer/hand-over.ts'

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
