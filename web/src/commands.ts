/**
 * What a person may do with what was sent: retry, stop, edit, another reply, another branch. What becomes of it comes as
 * frames, to this page as to every other; here only a refusal is told, where the command was given.
 */
import { useCallback, useState } from 'react'
import { type Answer, command, isUnknown, type Problem, type Stand } from './session.ts'
import { newId, recallAll, remember } from './storage.ts'
import { type Message, type Part, type TurnView, textOf } from './view.ts'

export type Commands = {
  retry(reply: Message): Promise<Problem | null>
  /** A message of one's own that nobody has begun to answer is withdrawn by it: its text is given back. */
  stop(turn: Stoppable): Promise<Problem | null>
  edit(message: Message, text: string): Promise<Problem | null>
  /** Another reply beside this one. */
  regenerate(reply: Message): Promise<Problem | null>
  select(messageId: string): Promise<Problem | null>
  /** Goes on with those stops whose answers never came, to an earlier page or to this one. */
  resume(): void
}
type Stoppable = Pick<TurnView, 'messageId' | 'round'>

export function commandsOf(sessionId: string, giveBack: (text: string) => void): Commands {
  const give = (messageId: string, name: Parameters<typeof command>[2], body: object) =>
    command(sessionId, messageId, name, body)
  const problemIn = async (answer: Promise<Answer<Stand>>) => {
    const given = await answer
    return given.ok ? null : given.problem
  }

  /** Ids of what edits and regenerations make: the same thing that is asked for again makes nothing new. */
  const ids = new Map<string, string>()
  const create = async (messageId: string, name: 'edit' | 'regenerate', content: object) => {
    const asked = JSON.stringify([messageId, name, content])
    const id = ids.get(asked) ?? newId()
    ids.set(asked, id)
    const problem = await problemIn(give(messageId, name, { id, ...content }))
    if (problem === null) ids.delete(asked)
    return problem
  }

  const stopping = new Set<string>()
  const keyOf = (messageId: string) => `stopping:${sessionId}:${messageId}`
  const stop = async ({ messageId, round }: Stoppable) => {
    // The server has the text no more when it has answered; should this page be gone by then, the next one asks again.
    remember(keyOf(messageId), JSON.stringify({ messageId, round }))
    stopping.add(messageId)
    const answer = await give(messageId, 'stop', { round })
    stopping.delete(messageId)
    if (answer.ok) {
      const { message, withdrawn } = answer.value
      if (withdrawn === true) giveBack(textOf(message.parts))
    }
    if (answer.ok || !isUnknown(answer.problem)) remember(keyOf(messageId), null)
    return answer.ok ? null : answer.problem
  }

  return {
    stop,
    retry: ({ repliesTo, round }) => problemIn(give(repliesTo ?? '', 'retry', { round })),
    edit: (message, text) => create(message.id, 'edit', contentOf(message, text)),
    regenerate: ({ id }) => create(id, 'regenerate', {}),
    select: (messageId) => problemIn(give(messageId, 'select', {})),
    resume() {
      const left = recallAll(keyOf('')).map((text) => JSON.parse(text) as Stoppable)
      for (const each of left) if (!stopping.has(each.messageId)) void stop(each)
    },
  }
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
  const [problem, setProblem] = useState<Problem | null>(null)
  const give = useCallback(async (ask: () => Promise<Problem | null>): Promise<boolean> => {
    setProblem(null)
    setBusy(true)
    const refused = await ask()
    setBusy(false)
    setProblem(refused)
    return refused === null
  }, [])
  return { isBusy, problem, give }
}
