/** Who came, went or got another role while the page is open, as quiet lines between the messages. */
import type { Member, SessionHandle, SessionState } from 'holdfast/client'
import { createContext, useContext, useEffect, useMemo, useRef, useState } from 'react'
import { calledOf } from './people.ts'

type Coming = { id: number; after: string; text: string }
/** As a frame tells it (PROTOCOL.md, events). */
type Told = { by?: string; reason?: string }
type Change = { userId: string; what: 'joined' | 'left' | { role: string } }

/** By the message that they stand after. */
export const ComingsContext = createContext<ReadonlyMap<string, readonly Coming[]>>(new Map())

const comingsMax = 50

/**
 * What changed is seen by the members themselves, so that it is also there where no frame told it, after a cut; by whom,
 * a frame tells.
 */
export function useComings(handle: SessionHandle, { phase, members, messages }: SessionState, me: string | null) {
  const [comings, setComings] = useState<readonly Coming[]>([])
  const before = useRef<readonly Member[] | null>(null)
  const told = useRef(new Map<string, Told>())
  const next = useRef(0)
  useEffect(
    () =>
      handle.onFrame((frame) => {
        if (!('data' in frame) || !frame.type.startsWith('member.')) return
        const { userId, member, by, reason } = frame.data as Told & { userId?: string; member?: Member }
        told.current.set(member?.userId ?? userId ?? '', { by, reason })
      }),
    [handle],
  )
  useEffect(() => {
    const was = before.current
    before.current = phase === 'ready' ? members : null
    if (was === null || was === members || phase !== 'ready') return
    const after = messages.findLast(({ seq }) => seq > 0)?.id
    const changes = changesOf(was, members)
    if (after === undefined || changes.length === 0) return
    const fresh = changes.map((change) => {
      const text = wordsOf(change, told.current.get(change.userId) ?? {}, me)
      return { id: next.current++, after, text }
    })
    told.current.clear()
    setComings((all) => [...all, ...fresh].slice(-comingsMax))
  }, [phase, members, messages, me])
  const byMessage = useMemo(() => {
    const map = new Map<string, Coming[]>()
    for (const each of comings) map.set(each.after, [...(map.get(each.after) ?? []), each])
    return map
  }, [comings])
  return { byMessage, last: comings.at(-1)?.text ?? null }
}

function changesOf(was: readonly Member[], now: readonly Member[]): Change[] {
  const [before, after] = [was, now].map((members) => new Map(members.map(({ userId, role }) => [userId, role])))
  return [
    ...now.flatMap(({ userId, role }): Change[] => {
      const roleBefore = before!.get(userId)
      if (roleBefore === undefined) return [{ userId, what: 'joined' }]
      return roleBefore === role ? [] : [{ userId, what: { role } }]
    }),
    ...was.flatMap(({ userId }): Change[] => (after!.has(userId) ? [] : [{ userId, what: 'left' }])),
  ]
}

const withArticle: { readonly [role: string]: string } = { owner: 'an owner', member: 'a member', reader: 'a reader' }

function wordsOf({ userId, what }: Change, { by, reason }: Told, me: string | null): string {
  const isOthers = by !== undefined && by !== userId && by !== 'server'
  const [who, whom] = userId === me ? ['You', 'you'] : [calledOf(userId), calledOf(userId)]
  const byWhom = by === me ? 'you' : calledOf(by ?? '')
  if (what === 'joined') return isOthers ? `${who} joined, invited by ${byWhom}` : `${who} joined`
  if (what === 'left') {
    if (reason !== 'removed') return `${who} left`
    return isOthers ? `${who} was removed by ${byWhom}` : `${who} was removed`
  }
  const role = withArticle[what.role] ?? what.role
  if (isOthers) return `${by === me ? 'You' : byWhom} made ${whom} ${role}`
  return userId === me ? `You are ${role} now` : `${who} is ${role} now`
}

export function Comings({ after }: { after: string }) {
  const those = useContext(ComingsContext).get(after)
  return those?.map(({ id, text }) => (
    <p key={id} className="coming" dir="auto">
      {text}
    </p>
  ))
}
