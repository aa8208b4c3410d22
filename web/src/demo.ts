/** What the demo's own server answers beside Holdfast, and the log that its timeline is drawn from. */
import type { EventFrame, LogFrame } from 'holdfast/client'

export type DemoInfo = { supervised: true; model: string; store: string; url: string }

/** It answers while no key is set, and names itself so. */
export const isDemoModel = ({ model }: DemoInfo) => model.startsWith('demo')

/** Null: this is no demo, or no answer came. */
export const demoInfo = () => json<DemoInfo>('/demo/info')

/** False: it was refused. Where no answer came the server may be dead all the same. */
export async function killServer(): Promise<boolean> {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch('/demo/kill', { method: 'POST', headers, body: '{}' }).catch(() => null)
  return answer === null || answer.ok
}

/** The events of a session's log after this cursor, up to what is stored now, and where they end. */
export async function readLog(sessionId: string, after: string): Promise<{ events: EventFrame[]; cursor: string }> {
  const events: EventFrame[] = []
  for (let cursor = after; ; ) {
    const path = `/v1/sessions/${encodeURIComponent(sessionId)}/events?wait=0&cursor=${encodeURIComponent(cursor)}`
    const page = await json<{ frames: LogFrame[]; cursor: string }>(path)
    if (page === null || page.frames.length === 0 || page.cursor === cursor) return { events, cursor }
    events.push(...page.frames.filter((frame) => 'seq' in frame))
    cursor = page.cursor
  }
}

async function json<T>(path: string): Promise<T | null> {
  const answer = await fetch(path, { headers: { accept: 'application/json' } }).catch(() => null)
  return answer?.ok === true ? ((await answer.json().catch(() => null)) as T | null) : null
}
