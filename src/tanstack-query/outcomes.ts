/**
 * Replies that ended, and messages that were said, while no frame could tell: between the last frame and the snapshot that
 * the client had to load. They are read from what is shown before and after, so that each is told once.
 */
import type { PassingFrame, SessionState, ShownMessage } from '../client/client.ts'
import type { LogFrame } from '../core/view.ts'

export type Outcome = { type: string; data: object }

export type Outcomes = {
  heard(frame: LogFrame | PassingFrame): void
  /** What has ended since the last time of which no frame was heard. The first time: nothing. */
  missedIn(state: SessionState): Outcome[]
}

export function createOutcomes(): Outcomes {
  /** Replies that are still owed, and the place after which all is new. Null: nothing was looked at. */
  let owed = new Set<string>()
  let newest: number | null = null
  let told = new Set<string>()
  return {
    heard(frame) {
      const { message } = ('data' in frame ? frame.data : {}) as { message?: { id: string } }
      if (message !== undefined) told.add(message.id)
    },
    missedIn({ messages }) {
      const replies = messages.filter(({ role }) => role === 'assistant')
      const ended = replies.filter(({ id, seq, status }) => {
        const isNew = newest !== null && seq > newest
        return status !== 'pending' && status !== 'streaming' && (owed.has(id) || isNew) && !told.has(id)
      })
      owed = new Set(replies.flatMap(({ id, status }) => (status === 'pending' || status === 'streaming' ? [id] : [])))
      newest = messages.reduce((most, { seq }) => Math.max(most, seq), newest ?? 0)
      told = new Set()
      return ended.map((reply) => outcomeOf(reply, messages))
    },
  }
}

/** As the event's data would have been, as far as the messages tell. */
function outcomeOf(reply: ShownMessage, messages: readonly ShownMessage[]): Outcome {
  const { delivery: _delivery, ...message } = reply
  const { repliesTo: userMessageId, status } = message
  if (userMessageId === null) return { type: 'message.said', data: { message } }
  if (status === 'complete') return { type: 'message.ai_response', data: { ...message.metadata, message } }
  if (status === 'stopped') return { type: 'message.stopped', data: { userMessageId, message, by: null } }
  const failure = message.error ?? messages.find(({ id }) => id === userMessageId)?.error
  return { type: 'message.error', data: { ...failure, userMessageId, message } }
}
