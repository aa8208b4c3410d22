/**
 * What a person may do with what was sent: retry, stop, edit, another reply, another branch. What becomes of it comes as
 * frames, to this page as to every other; here only a refusal is told, where the command was given.
 */
import { useCallback, useEffect, useRef, useState } from 'react'
import { draftKeyOf, giveBack } from './drafts.ts'
import { type EditBody, type Edits, editsOf } from './edits.ts'
import {
  type Answer,
  type Approval,
  approve,
  command,
  hurryCommands,
  isUnknown,
  type Problem,
  type Stand,
} from './session.ts'
import { newId, recall, recallAll, remember } from './storage.ts'
import { type Message, type Part, type TurnView, textOf } from './view.ts'

export type Commands = {
  retry(reply: Message): Promise<Problem | null>
  /** A message of one's own that nobody has begun to answer is withdrawn by it: its text is given back. */
  stop(turn: Stoppable): Promise<Problem | null>
  /** A message was taken back before it was acknowledged, and may have been stored all the same: then it is stopped. */
  disown(messageId: string): void
  edit(message: Message, text: string): Promise<Problem | null>
  edits: Edits
  /** Another reply beside this one. */
  regenerate(reply: Message): Promise<Problem | null>
  select(messageId: string): Promise<Problem | null>
  /** Of the question with this id. Whoever answers first is heard. */
  answer(approvalId: string, body: Approval): Promise<Problem | null>
  /** The server answers again: goes on with what waits to be given again, and with what an earlier page left. */
  resume(): void
}
type Stoppable = Pick<TurnView, 'messageId' | 'round'>
/** `hasText`: the writer has the text already. */
type Stop = Stoppable & { hasText?: boolean }

/** Of all sessions: who leaves one and comes back finds it under way. */
const stops = new Map<string, Promise<Problem | null>>()

export function commandsOf(sessionId: string): Commands {
  const edits = editsOf(sessionId)
  const give = (messageId: string, name: Parameters<typeof command>[2], body: object) =>
    command(sessionId, messageId, name, body)
  const problemIn = async (answer: Promise<Answer<Stand>>) => {
    const given = await answer
    return given.ok ? null : given.problem
  }

  const editing = new Set<string>()
  const edit = async (messageId: string, body: EditBody) => {
    editing.add(body.id)
    edits.set(messageId, { text: '', isOpen: true, ...edits.of(messageId), asked: body })
    const problem = await problemIn(give(messageId, 'edit', body))
    editing.delete(body.id)
    const now = edits.of(messageId)
    // Meanwhile it was given up, or something else was written: that stays.
    if (now?.asked !== body) return problem
    if (problem === null) edits.set(messageId, null)
    else if (!isUnknown(problem)) edits.set(messageId, { ...now, asked: null })
    return problem
  }

  /** Ids of what regenerations make: the same one that is asked for again makes nothing new. */
  const ids = new Map<string, string>()
  const regenerate = async (replyId: string) => {
    const id = ids.get(replyId) ?? newId()
    ids.set(replyId, id)
    const problem = await problemIn(give(replyId, 'regenerate', { id }))
    if (problem === null) ids.delete(replyId)
    return problem
  }

  const prefix = `stopping:${encodeURIComponent(sessionId)}:`
  const stop = (asked: Stop): Promise<Problem | null> => {
    const key = `${prefix}${asked.messageId}:${asked.round}`
    const there = stops.get(key)
    if (there) return there
    const stopped = stopOnce(key, asked).finally(() => stops.delete(key))
    stops.set(key, stopped)
    return stopped
  }
  const stopOnce = (key: string, { messageId, round, hasText = false }: Stop) => {
    // The server has the text no more when it has answered; should this page be gone by then, the next one asks again.
    remember(key, JSON.stringify({ messageId, round, hasText }))
    const isKept = recall(key) !== null
    return locked(key, async () => {
      // Another tab has had the answer, and the text. What it has stored may be seen late here, its lock is not.
      if ((isKept && recall(key) === null) || (await isHeld(givenBack(key)))) return null
      const answer = await give(messageId, 'stop', { round })
      if (answer.ok && answer.value.withdrawn === true && !hasText) {
        giveBack(draftKeyOf(sessionId), textOf(answer.value.message.parts))
        await hold(givenBack(key))
      }
      if (answer.ok || !isUnknown(answer.problem)) remember(key, null)
      return answer.ok ? null : answer.problem
    })
  }

  return {
    stop,
    disown: (messageId) => void stop({ messageId, round: 1, hasText: true }),
    retry: ({ repliesTo, round }) => problemIn(give(repliesTo ?? '', 'retry', { round })),
    edit(message, text) {
      const content = contentOf(message, text)
      const { id, ...asked } = edits.of(message.id)?.asked ?? { id: newId() }
      const isSame = JSON.stringify(asked) === JSON.stringify(content)
      return edit(message.id, { id: isSame ? id : newId(), ...content })
    },
    edits,
    regenerate: ({ id }) => regenerate(id),
    answer: async (approvalId, body) => {
      const given = await approve(sessionId, approvalId, body)
      return given.ok ? null : given.problem
    },
    select: (messageId) => problemIn(give(messageId, 'select', {})),
    resume() {
      hurryCommands()
      for (const text of recallAll(prefix)) void stop(JSON.parse(text) as Stop)
      for (const { messageId, body } of edits.asked()) if (!editing.has(body.id)) void edit(messageId, body)
    },
  }
}

/** One tab at a time. Where the browser has no locks (plain http from another machine) two may ask. */
function locked<T>(name: string, work: () => Promise<T>): Promise<T> {
  return 'locks' in navigator ? navigator.locks.request(`holdfast:${name}`, work) : work()
}

const givenBack = (key: string) => `given back:${key}`

/** Until this tab is closed, which is long after others see what it has stored. */
async function hold(name: string): Promise<void> {
  if (!('locks' in navigator)) return
  await new Promise<void>((held, refused) => {
    const keep = () => {
      held()
      return new Promise<never>(() => undefined)
    }
    navigator.locks.request(`holdfast:${name}`, keep).catch(refused)
  })
}

async function isHeld(name: string): Promise<boolean> {
  if (!('locks' in navigator)) return false
  const { held = [] } = await navigator.locks.query()
  return held.some((lock) => lock.name === `holdfast:${name}`)
}

/** The new text in the old one's place; what else the message holds stays. */
function contentOf({ parts, metadata }: Message, text: string) {
  const others = parts.filter(({ type }) => type !== 'text')
  const said = others.length === 0 ? { text } : { parts: [{ type: 'text', text } as Part, ...others] }
  return metadata === null ? said : { ...said, metadata }
}

/** One command at a time, and why the last one was refused. Answers whether it was done. */
export function useCommand() {
  const [isBusy, setBusy] = useState(false)
  const [refusal, setRefusal] = useState<Refusal | null>(null)
  const isUnderWay = useRef(false)
  const until = refusal?.until ?? null
  useEffect(() => {
    if (until === null) return
    const timer = setTimeout(() => setRefusal(null), until - Date.now())
    return () => clearTimeout(timer)
  }, [until])
  const give = useCallback(
    async (ask: () => Promise<Problem | null>): Promise<boolean> => {
      if (isUnderWay.current || until !== null) return false
      isUnderWay.current = true
      setRefusal(null)
      setBusy(true)
      const problem = await ask()
      isUnderWay.current = false
      setBusy(false)
      setRefusal(problem && refusalOf(problem))
      return problem === null
    },
    [until],
  )
  return { isBusy: isBusy || until !== null, refusal, give }
}

/** `until`: it is too early, and may be given again then, in ms. */
export type Refusal = { detail: string; until: number | null }

const refusalOf = ({ code, detail, retryAfterMs }: Problem): Refusal => ({
  detail,
  until: code === 'rate_limited' && retryAfterMs !== undefined ? Date.now() + retryAfterMs : null,
})

/** The stop of the turn that is being answered: what became of another one's says nothing of this one's. */
export function useStop(commands: Commands, turn: TurnView | undefined) {
  const [last, setLast] = useState<{ turnId: string; round: number; problem: Problem | null; isBusy: boolean } | null>(
    null,
  )
  const own = last && turn && last.turnId === turn.id && last.round === turn.round ? last : null
  const stop = async () => {
    if (!turn || own?.isBusy) return
    const asked = { turnId: turn.id, round: turn.round, problem: null, isBusy: true }
    setLast(asked)
    const problem = await commands.stop(turn)
    setLast((now) => (now === asked ? { ...asked, problem, isBusy: false } : now))
  }
  return { stop, isBusy: own?.isBusy ?? false, problem: own?.problem ?? null }
}
