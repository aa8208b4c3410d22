/**
 * What a person may do with what was sent: retry, stop, edit, another reply, another branch. What becomes of it comes as
 * frames, to this page as to every other; here only a refusal is told, where the command was given. The client asks again
 * until there is an answer; what this page does not live to hear, the next one asks for.
 */
import { type HoldfastClient, HoldfastError, type Message, type Part, type Turn, textOf } from 'holdfast/client'
import { useCallback, useEffect, useRef, useState } from 'react'
import { giveBackFiles } from './attachments.ts'
import { draftKeyOf, giveBack } from './drafts.ts'
import { type EditBody, type Edits, editsOf } from './edits.ts'
import { hold, isHeld, locked } from './locks.ts'
import { recall, recallAll, remember } from './storage.ts'

/** Each rejects with the server's refusal. */
export type Commands = {
  retry(reply: Message): Promise<unknown>
  /** A message of one's own that nobody has begun to answer is withdrawn by it: its text is given back. */
  stop(turn: Stoppable): Promise<unknown>
  /** Of one that was not sent so far: its text is given back. */
  takeBack(messageId: string): Promise<unknown>
  /** One that could not be sent. */
  sendAgain(messageId: string): void
  edit(message: Message, text: string): Promise<unknown>
  edits: Edits
  /** Another reply beside this one. */
  regenerate(reply: Message): Promise<unknown>
  select(messageId: string): Promise<unknown>
  /** Of the question with this id. Whoever answers first is heard. */
  answer(approvalId: string, body: Approval): Promise<unknown>
  /** Goes on with what an earlier page left without an answer. */
  resume(): void
}
type Stoppable = Pick<Turn, 'messageId' | 'round'>
export type Approval = { approved: boolean; reason?: string; turnId: string; attempt: number }

/** Of all sessions: who leaves one and comes back finds it under way. */
const stops = new Map<string, Promise<void>>()

export function commandsOf(client: HoldfastClient, sessionId: string): Commands {
  const session = client.session(sessionId)
  const edits = editsOf(sessionId)

  const giveAllBack = (parts: readonly Part[]) => {
    const text = textOf(parts)
    if (text !== '') giveBack(draftKeyOf(sessionId), text)
    giveBackFiles(sessionId, parts)
  }

  const editing = new Set<string>()
  const edit = async (messageId: string, body: EditBody) => {
    editing.add(body.id)
    edits.set(messageId, { text: '', isOpen: true, ...edits.of(messageId), asked: body })
    // Meanwhile it may have been given up, or something else was written: that stays.
    const isStillAsked = () => edits.of(messageId)?.asked === body
    try {
      const { id, ...message } = body
      await untilTried(messageId)
      await session.edit(messageId, message, id)
      if (isStillAsked()) edits.set(messageId, null)
    } catch (error) {
      const now = edits.of(messageId)
      if (now && isStillAsked() && isRefused(error)) edits.set(messageId, { ...now, asked: null })
      throw error
    } finally {
      editing.delete(body.id)
    }
  }

  /** Ids of what regenerations make: the same one that is asked for again makes nothing new. */
  const ids = new Map<string, string>()
  const regenerate = async (replyId: string) => {
    const id = ids.get(replyId) ?? client.newId()
    ids.set(replyId, id)
    await session.regenerate(replyId, id)
    ids.delete(replyId)
  }

  const prefix = `stopping:${encodeURIComponent(sessionId)}:`
  const stop = (asked: Stoppable): Promise<void> => {
    const key = `${prefix}${asked.messageId}:${asked.round}`
    const there = stops.get(key)
    if (there) return there
    const stopped = stopOnce(key, asked).finally(() => stops.delete(key))
    stops.set(key, stopped)
    return stopped
  }
  const stopOnce = async (key: string, { messageId, round }: Stoppable) => {
    // The server has the text no more when it has answered; should this page be gone by then, the next one asks again.
    remember(key, JSON.stringify({ messageId, round }))
    const isKept = recall(key) !== null
    await locked(key, async () => {
      // Another tab has had the answer, and the text. What it has stored may be seen late here, its lock is not.
      if ((isKept && recall(key) === null) || (await isHeld(givenBack(key)))) return
      try {
        const [stand] = await session.stop(messageId, round)
        if (stand?.withdrawn === true) {
          giveAllBack(stand.message.parts)
          await hold(givenBack(key))
        }
        remember(key, null)
      } catch (error) {
        if (isRefused(error)) remember(key, null)
        throw error
      }
    })
  }

  /** What is being sent right now changes when that try is over. */
  const untilTried = (messageId: string) => {
    const isSending = () => client.unsent.list().some((each) => each.id === messageId && each.isSending)
    return new Promise<void>((resolve) => {
      if (!isSending()) return resolve()
      const deaf = client.unsent.subscribe(() => {
        if (isSending()) return
        deaf()
        resolve()
      })
    })
  }
  const takeBack = async (messageId: string) => {
    while (client.unsent.list().some(({ id }) => id === messageId)) {
      const parts = await client.unsent.withdraw(messageId)
      if (parts !== null) return giveAllBack(parts)
      await untilTried(messageId)
    }
    // It was taken meanwhile.
    await stop({ messageId, round: 1 })
  }

  return {
    stop,
    takeBack,
    sendAgain: (messageId) => client.unsent.retry(messageId),
    retry: ({ repliesTo }) => session.retry(repliesTo ?? ''),
    edit(message, text) {
      const content = contentOf(message, text)
      const { id, ...asked } = edits.of(message.id)?.asked ?? { id: client.newId() }
      const isSame = JSON.stringify(asked) === JSON.stringify(content)
      return edit(message.id, { id: isSame ? id : client.newId(), ...content })
    },
    edits,
    regenerate: ({ id }) => regenerate(id),
    answer: session.approve,
    select: session.select,
    resume() {
      // What is refused by now was told to nobody, and needs no telling.
      for (const text of recallAll(prefix)) stop(JSON.parse(text) as Stoppable).catch(() => undefined)
      for (const { messageId, body } of edits.asked()) {
        if (!editing.has(body.id)) edit(messageId, body).catch(() => undefined)
      }
    },
  }
}

/** Else nobody can tell whether it has happened. */
const isRefused = (error: unknown) => error instanceof HoldfastError && error.kind !== 'network' && error.status < 500

const givenBack = (key: string) => `given back:${key}`

/** The new text in the old one's place; what else the message holds stays. */
function contentOf({ parts, metadata }: Message, text: string) {
  const others = parts.filter(({ type }) => type !== 'text')
  const edited = { parts: [{ type: 'text', text }, ...others] }
  return metadata === null ? edited : { ...edited, metadata }
}

/** So long a command may take before the page says that no answer comes. It is asked on. */
const unansweredMs = 6_000
export const unanswered = 'The server does not answer. It is asked again until it does.'

/** `until`: it is too early, and may be given again then, in ms. */
export type Refusal = { detail: string; until: number | null }

/** One command at a time, and why the last one was refused, or is not answered so far. Answers whether it was done. */
export function useCommand() {
  const [isBusy, setBusy] = useState(false)
  const [refusal, setRefusal] = useState<Refusal | null>(null)
  const isUnderWay = useRef(false)
  const until = refusal?.until ?? null
  useEffect(() => {
    if (until === null) return
    // What is longer a timer takes for nothing, and who asks again then is told again.
    const timer = setTimeout(() => setRefusal(null), Math.min(until - Date.now(), 2e9))
    return () => clearTimeout(timer)
  }, [until])
  const give = useCallback(
    async (ask: () => Promise<unknown>): Promise<boolean> => {
      if (isUnderWay.current || until !== null) return false
      isUnderWay.current = true
      setRefusal(null)
      setBusy(true)
      const late = setTimeout(() => setRefusal({ detail: unanswered, until: null }), unansweredMs)
      const refused = await refusalOf(ask())
      clearTimeout(late)
      isUnderWay.current = false
      setBusy(false)
      setRefusal(refused)
      return refused === null
    },
    [until],
  )
  return { isBusy: isBusy || until !== null, refusal, give }
}

/** Null: it was done. */
async function refusalOf(asked: Promise<unknown>): Promise<Refusal | null> {
  try {
    await asked
    return null
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error
    const { kind, message, retryAfterMs } = error
    const isLater = kind === 'rate_limit' && retryAfterMs !== undefined
    return { detail: message, until: isLater ? Date.now() + retryAfterMs : null }
  }
}

/** The stop of the turn that is being answered: what became of another one's says nothing of this one's. */
export function useStop(commands: Commands, turn: Turn | undefined) {
  type Last = { turnId: string; round: number; problem: string | null; isBusy: boolean }
  const [last, setLast] = useState<Last | null>(null)
  const own = last && turn && last.turnId === turn.id && last.round === turn.round ? last : null
  const stop = async () => {
    if (!turn || own?.isBusy) return
    const { id: turnId, round } = turn
    const tell = (problem: string | null, isBusy: boolean) =>
      setLast((now) => (now?.turnId === turnId && now.round === round ? { turnId, round, problem, isBusy } : now))
    setLast({ turnId, round, problem: null, isBusy: true })
    const late = setTimeout(() => tell(unanswered, true), unansweredMs)
    const refused = await refusalOf(commands.stop(turn))
    clearTimeout(late)
    tell(refused?.detail ?? null, false)
  }
  return { stop, isBusy: own?.isBusy ?? false, problem: own?.problem ?? null }
}
