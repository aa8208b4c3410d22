/** The list of sessions, last changed first, as far back as was asked for. */
import { useCallback, useEffect, useState } from 'react'
import { listSessions, type SessionPage } from './session.ts'
import type { Session } from './view.ts'

type Sessions = {
  sessions: readonly Session[]
  refresh(): Promise<void>
  /** Null: all are there. */
  loadOlder: (() => Promise<void>) | null
}

export function useSessions(): Sessions {
  const [{ data, before }, setList] = useState<SessionPage>({ data: [], before: null })
  const refresh = useCallback(async () => {
    const answer = await listSessions()
    // A guest who has not written yet is nobody, and has no sessions. Where no answer comes, what was known stays.
    if (answer.ok) setList((list) => withFirst(list, answer.value))
  }, [])
  useEffect(() => {
    void refresh()
    const look = () => void refresh()
    window.addEventListener('focus', look)
    return () => window.removeEventListener('focus', look)
  }, [refresh])
  const loadOlder = async (place: string) => {
    const answer = await listSessions(place)
    if (answer.ok) setList((list) => withOlder(list, answer.value))
  }
  return { sessions: data, refresh, loadOlder: before === null ? null : () => loadOlder(before) }
}

/** What lies behind the first page stays, if the page reaches back to what was known; what is missing on it was deleted. */
function withFirst(list: SessionPage, first: SessionPage): SessionPage {
  const last = first.data.at(-1)
  const newest = list.data[0]
  if (first.before === null || last === undefined || newest === undefined) return first
  if (last.updatedAt > newest.updatedAt) return first
  const behind = without(list.data, first).filter(({ updatedAt }) => updatedAt <= last.updatedAt)
  return { data: [...first.data, ...behind], before: behind.length > 0 ? list.before : first.before }
}

const withOlder = (list: SessionPage, page: SessionPage): SessionPage => ({
  data: [...list.data, ...without(page.data, list)],
  before: page.before,
})

function without(sessions: Session[], { data }: SessionPage): Session[] {
  const known = new Set(data.map(({ id }) => id))
  return sessions.filter(({ id }) => !known.has(id))
}
