import type { Json, JsonObject } from '../core/json.ts'
import type { Message } from '../core/message.ts'

/**
 * A message as a `reply` function gets it: the AI SDK's `UIMessage`, spelled so that it fits both of its majors and
 * `convertToModelMessages(messages)` needs no cast. Parts that only a newer SDK knows are there at run time too.
 */
export type UserOrAssistantMessage = {
  id: string
  role: 'user' | 'assistant'
  parts: MessagePart[]
  metadata?: JsonObject
}

type ProviderMetadata = { [provider: string]: JsonObject }

export type MessagePart =
  | { type: 'text'; text: string; state?: 'streaming' | 'done'; providerMetadata?: ProviderMetadata }
  | { type: 'reasoning'; text: string; state?: 'streaming' | 'done'; providerMetadata?: ProviderMetadata }
  | { type: 'file'; mediaType: string; url: string; filename?: string; providerMetadata?: ProviderMetadata }
  | { type: 'source-url'; sourceId: string; url: string; title?: string; providerMetadata?: ProviderMetadata }
  | SourceDocumentPart
  | { type: 'step-start' }
  | { type: `data-${string}`; id?: string; data: Json }
  | ToolPart

type SourceDocumentPart = {
  type: 'source-document'
  sourceId: string
  mediaType: string
  title: string
  filename?: string
  providerMetadata?: ProviderMetadata
}

export type ToolPart = ({ type: `tool-${string}` } | { type: 'dynamic-tool'; toolName: string }) & {
  toolCallId: string
  title?: string
  providerExecuted?: boolean
  callProviderMetadata?: ProviderMetadata
} & ToolState

type Answered<Approved extends boolean> = { id: string; approved: Approved; reason?: string }
type ToolState =
  | { state: 'input-streaming'; input?: Json }
  | { state: 'input-available'; input: Json }
  | { state: 'approval-requested'; input: Json; approval: { id: string } }
  | { state: 'approval-responded'; input: Json; approval: Answered<boolean> }
  | { state: 'output-available'; input: Json; output: Json; approval?: Answered<true> }
  | { state: 'output-error'; input: Json; errorText: string; approval?: Answered<true> }
  | { state: 'output-denied'; input: Json; approval: Answered<false> }

/** A stored message as a `reply` function gets it. What is stored came through the fold, so its parts are such parts. */
export function replyMessage(message: Pick<Message, 'id' | 'role' | 'parts' | 'metadata'>): UserOrAssistantMessage {
  const { id, role, metadata } = message
  const parts = message.parts as MessagePart[]
  return metadata === null ? { id, role, parts } : { id, role, parts, metadata }
}

export function isToolPart(part: MessagePart): part is ToolPart {
  return part.type === 'dynamic-tool' || part.type.startsWith('tool-')
}

export function toolNameOf(part: ToolPart): string {
  return part.type === 'dynamic-tool' ? part.toolName : part.type.slice('tool-'.length)
}

/** The text that a person wrote or read in this message, without reasoning. */
export function textOf(message: UserOrAssistantMessage): string {
  return message.parts.flatMap((part) => (part.type === 'text' ? [part.text] : [])).join('\n')
}
