import type { JsonObject } from '../core/json.ts'
import type { KnownPart, KnownToolPart } from '../core/known-part.ts'
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

export type MessagePart = KnownPart
export type ToolPart = KnownToolPart

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
