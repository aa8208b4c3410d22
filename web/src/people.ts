/** Who this page's user is among the members of a chat: what is theirs, what they may do, and who the others are. */
import { type Member, readersOf, type SessionState, type ShownMessage } from 'holdfast/client'
import { createContext, useContext, useEffect, useMemo, useSyncExternalStore } from 'react'
import { type Possible, possibleOnOthers } from './possible.ts'
import { recall, remember } from './storage.ts'

export type People = {
  /** Null: the server has not said it so far. */
  me: string | null
  /** Nobody else has written, or can. */
  isAlone: boolean
  /** False: of this chat one is a reader. */
  mayWrite: boolean
}

export const PeopleContext = createContext<People>({ me: null, isAlone: true, mayWrite: true })

/** Of one chat. `isLive`: the server is reached, and one is somebody there. */
export function usePeople({ session, members }: SessionState, isLive: boolean): People {
  const me = useSyncExternalStore(subscribe, () => userId)
  const isKnown = isLive && session !== null
  useEffect(() => {
    if (isKnown) void ask()
  }, [isKnown])
  const isAlone = members.length < 2
  const mayWrite = members.find((each) => each.userId === me)?.role !== 'reader'
  return useMemo(() => ({ me, isAlone, mayWrite }), [me, isAlone, mayWrite])
}

/** How somebody else is called who wrote this message of a person. Null: it is one's own. */
export function useWriter({ author }: ShownMessage): string | null {
  const { me, isAlone } = useContext(PeopleContext)
  // One that is not stored so far has no author; and who is alone here wrote it, until it is known better.
  return author === null || (me === null ? isAlone : author === me) ? null : calledOf(author)
}

/** What may be done with it is its writer's, except what everybody may do who may write here. */
export function useRights(can: Possible, isOwn: boolean): Possible {
  const mayWrite = useMayWrite()
  return useMemo(() => (isOwn && mayWrite ? can : possibleOnOthers(can, mayWrite)), [can, isOwn, mayWrite])
}

/** Apart from the rest: it changes with each receipt, and few look at it. */
export const MembersContext = createContext<readonly Member[]>([])

/** Of the others who are in the chat now, who has read a message of one's own. Null: there are none. */
export function useReaders(message: ShownMessage): { readers: string[]; others: number } | null {
  const members = useContext(MembersContext)
  const others = members.filter(({ userId }) => userId !== message.author).length
  if (others === 0 || isPrivate(message)) return null
  return { readers: readersOf(message, members).map(calledOf), others }
}

/** Nobody else is told of it (PROTOCOL.md, P157). */
export const isPrivate = ({ lane }: ShownMessage) => lane.startsWith('private:')

/** Whether one is an owner of this chat. */
export function useIsOwner(): boolean {
  const { me } = useContext(PeopleContext)
  return useContext(MembersContext).find(({ userId }) => userId === me)?.role === 'owner'
}

export const useMayWrite = () => useContext(PeopleContext).mayWrite

/** A guest has no name, and an id that nobody can tell from another's at a glance. */
export function calledOf(id: string): string {
  const [, secret] = /^guest-([\w-]{22})$/.exec(id) ?? []
  return secret === undefined ? id : `Guest ${secret.replace(/[-_]/g, '').slice(0, 4)}`
}

/** What stands in the circle that stands for them. */
export function initialsOf(id: string): string {
  const words = calledOf(id)
    .split(/[\s._@-]+/u)
    .filter(Boolean)
  // Every guest is called one.
  const told =
    words[0] === 'Guest' && words.length > 1 ? [...(words[1] ?? '')] : words.map((word) => [...word][0] ?? '')
  return told.slice(0, 2).join('').toUpperCase()
}

export const roleNames: { readonly [role: string]: string } = { owner: 'Owner', member: 'Member', reader: 'Reader' }

/** As it was the last time, until the server has said it: what is kept on this device is shown before that. */
let userId = recall('me')
let asked: Promise<void> | null = null
const hearers = new Set<() => void>()

function subscribe(hear: () => void): () => void {
  hearers.add(hear)
  return () => hearers.delete(hear)
}

/** Once; where no answer comes, when the server is reached the next time. */
function ask(): Promise<void> {
  asked ??= whoAmI().then((answer) => {
    if (answer === null) asked = null
    else if (answer !== userId) {
      userId = answer
      remember('me', answer)
      for (const hear of hearers) hear()
    }
  })
  return asked
}

async function whoAmI(): Promise<string | null> {
  const answer = await fetch('/v1/me', { headers: { accept: 'application/json' } }).catch(() => null)
  const said = answer?.ok === true ? ((await answer.json().catch(() => null)) as { userId: string } | null) : null
  return said?.userId ?? null
}
