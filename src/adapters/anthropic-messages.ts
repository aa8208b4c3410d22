import type { Json } from '../core/json.ts'
import { isToolPart, type MessagePart, toolNameOf, type UserOrAssistantMessage } from '../reply/message.ts'
import {
  base64Of,
  type FilePart,
  fileNote,
  stepsOf,
  type ToolResult,
  textOfFile,
  toolResultsOf,
} from './conversation.ts'

type ProviderMessage = { role: 'user' | 'assistant'; content: Json[] }

/**
 * A conversation in the words of Anthropic's messages API. Thinking is sent back only with its signature, without
 * which it is refused; blank texts are left out for the same reason; neighbours of one role become one message. The first
 * is the user's, or all would be refused: where the assistant has spoken first, one is put before it.
 */
export function anthropicMessages(messages: UserOrAssistantMessage[]): Json[] {
  const all = messages.flatMap(({ role, parts }) => (role === 'user' ? [userMessage(parts)] : assistantMessages(parts)))
  const joined: ProviderMessage[] = []
  for (const message of all.filter(({ content }) => content.length > 0)) {
    const last = joined.at(-1)
    if (last?.role === message.role) last.content.push(...message.content)
    else joined.push(message)
  }
  if (joined[0]?.role === 'assistant') joined.unshift({ role: 'user', content: textBlocks(noFirstWord) })
  return joined
}

const noFirstWord = '(The user has said nothing yet.)'

function userMessage(parts: MessagePart[]): ProviderMessage {
  return { role: 'user', content: parts.flatMap(userBlocks) }
}

function userBlocks(part: MessagePart): Json[] {
  if (part.type === 'text') return textBlocks(part.text)
  return part.type === 'file' ? [fileBlock(part)] : []
}

function textBlocks(text: string): Json[] {
  return text.trim() === '' ? [] : [{ type: 'text', text }]
}

/** Those that docs.anthropic.com names for its messages API (read November 2026). */
const imageTypes = new Set(['image/jpeg', 'image/png', 'image/gif', 'image/webp'])

function fileBlock(part: FilePart): Json {
  const text = textOfFile(part)
  if (text !== null) return { type: 'text', text }
  if (part.mediaType.startsWith('image')) {
    if (base64Of(part) !== null && !imageTypes.has(part.mediaType)) return { type: 'text', text: fileNote(part) }
    return { type: 'image', source: sourceOf(part) }
  }
  if (part.mediaType === 'application/pdf') return { type: 'document', source: sourceOf(part) }
  return { type: 'text', text: fileNote(part) }
}

function sourceOf(part: FilePart): Json {
  const file = base64Of(part)
  return file === null
    ? { type: 'url', url: part.url }
    : { type: 'base64', media_type: file.mediaType, data: file.data }
}

function assistantMessages(parts: MessagePart[]): ProviderMessage[] {
  return stepsOf(parts).flatMap((step) => {
    const results = toolResultsOf(step)
    const calls = new Map(results.map((result) => [result.part.toolCallId, toolUse(result)]))
    const content = step.flatMap((part) => assistantBlocks(part, calls))
    return [
      { role: 'assistant', content },
      { role: 'user', content: results.map(toolResult) },
    ] satisfies ProviderMessage[]
  })
}

function assistantBlocks(part: MessagePart, calls: Map<string, Json>): Json[] {
  if (part.type === 'text') return textBlocks(part.text)
  if (part.type === 'reasoning') return thinkingBlocks(part.text, part.providerMetadata?.anthropic)
  const call = isToolPart(part) ? calls.get(part.toolCallId) : undefined
  return call === undefined ? [] : [call]
}

function thinkingBlocks(thinking: string, metadata: { [key: string]: Json } | undefined): Json[] {
  if (metadata?.redactedData !== undefined) return [{ type: 'redacted_thinking', data: metadata.redactedData }]
  return metadata?.signature === undefined ? [] : [{ type: 'thinking', thinking, signature: metadata.signature }]
}

function toolUse({ part }: ToolResult): Json {
  return { type: 'tool_use', id: part.toolCallId, name: toolNameOf(part), input: part.input ?? {} }
}

function toolResult({ part, text, isError }: ToolResult): Json {
  return { type: 'tool_result', tool_use_id: part.toolCallId, content: text, is_error: isError }
}
