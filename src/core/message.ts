import type { Budget } from './asks.ts'
import type { Part } from './chunk.ts'
import type { Failure } from './errors.ts'
import type { JsonObject } from './json.ts'

export type MessageStatus = 'pending' | 'streaming' | 'complete' | 'failed' | 'stopped'

/**
 * A message as every route and event shows it. The AI SDK's `UIMessage` is its `id`, `role`, `parts`, `metadata`.
 * `Metadata` is the app's: what `onReply` answers. A user's message has what its sender gave.
 */
export type Message<Metadata extends object = JsonObject, OnePart = Part> = {
  id: string
  sessionId: string
  /** The `seq` of the event that created it; a user's message and its first reply share one. */
  seq: number
  role: 'user' | 'assistant'
  parts: OnePart[]
  metadata: Metadata | null
  /** A user's message is always `complete`; the assistant's follows its turn's round. */
  status: MessageStatus
  /** On the user's message while its turn is failed, else null. */
  error: Failure | null
  author: string | null
  lane: string
  /** On the assistant's message: the id of the user's message that it answers; null where it was said by itself. */
  repliesTo: string | null
  /** Null: it has no alternatives. `previous` and `next` are what `select` is asked for; null at the ends. */
  branch: { index: number; count: number; previous: string | null; next: string | null } | null
  round: number | null
  model: string | null
  inputTokens: number | null
  outputTokens: number | null
  createdAt: string
  updatedAt: string
}

/** A session as every route and event shows it to a user. */
export type Session = {
  id: string
  title: string | null
  metadata: JsonObject
  createdAt: string
  updatedAt: string
  messageCount: number
  totalTokens: number
  lastPreview: string | null
  lastModel: string | null
  unread: number
}

/** The work on a reply, as every route and event shows it. */
export type Turn = {
  id: string
  messageId: string
  replyId: string
  state: 'queued' | 'running' | 'waiting' | 'complete' | 'failed' | 'stopped'
  attempt: number
  round: number
  /** While it waits to be tried again: when. */
  dueAt?: string
  /** While it waits for people: the first of these that it waits for. */
  waitingFor?: 'approval' | 'uncertain' | 'budget' | 'tool'
  /** While it waits: what goes on when somebody approves it. */
  approvals?: Approval[]
  /** While it waits: calls that a client runs, and sends the result of. */
  toolCalls?: { toolCallId: string; toolName: string; expiresAt: string }[]
}

/**
 * Something that waits for a yes or a no. `approval`: a call that runs then. `uncertain`: one of which nobody knows whether it
 * ran already. The reply's parts show both. `budget`: the reply has used up what it may use without asking.
 */
export type Approval = { id: string; expiresAt: string } & (
  | { kind: 'approval' | 'uncertain'; toolCallId: string; toolName: string }
  | ({ kind: 'budget' } & Budget)
)

/** What a provider reported for one step. Absent numbers were not reported, never guessed. */
export type StepUsage = {
  provider?: string
  model?: string
  inputTokens?: number
  outputTokens?: number
  cachedInputTokens?: number
  reasoningTokens?: number
  finishReason?: string
}
