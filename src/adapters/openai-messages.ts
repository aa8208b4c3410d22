import type { Json } from '../core/json.ts'
import { type MessagePart, toolNameOf, type UserOrAssistantMessage } from '../reply/message.ts'
import {
  base64Of,
  type FilePart,
  fileNote,
  stepsOf,
  type ToolResult,
  textOfFile,
  toolResultsOf,
} from './conversation.ts'

/** A conversation in the words of OpenAI's chat completions. Reasoning is not sent back. */
export function openaiMessages(messages: UserOrAssistantMessage[], system: string | undefined): Json[] {
  const said = messages.flatMap(({ role, parts }) => (role === 'user' ? userMessages(parts) : assistantMessages(parts)))
  return system === undefined ? said : [{ role: 'system', content: system }, ...said]
}

function userMessages(parts: MessagePart[]): Json[] {
  const content = parts.flatMap(userContent)
  const first = content[0]
  if (first === undefined) return []
  return [{ role: 'user', content: content.length === 1 && first.type === 'text' ? first.text : content }]
}

type Content =
  | { type: 'text'; text: string }
  | { type: 'image_url'; image_url: { url: string } }
  | { type: 'file'; file: { filename: string; file_data: string } }

function userContent(part: MessagePart): Content[] {
  if (part.type === 'text' && part.text !== '') return [{ type: 'text', text: part.text }]
  return part.type === 'file' ? [fileContent(part)] : []
}

function fileContent(part: FilePart): Content {
  const text = textOfFile(part)
  if (text !== null) return { type: 'text', text }
  if (part.mediaType.startsWith('image')) return { type: 'image_url', image_url: { url: part.url } }
  if (part.mediaType === 'application/pdf' && base64Of(part) !== null) {
    return { type: 'file', file: { filename: part.filename ?? 'document.pdf', file_data: part.url } }
  }
  return { type: 'text', text: fileNote(part) }
}

function assistantMessages(parts: MessagePart[]): Json[] {
  return stepsOf(parts).flatMap((step) => {
    const results = toolResultsOf(step)
    const text = step.flatMap((part) => (part.type === 'text' ? [part.text] : [])).join('')
    if (results.length > 0) {
      const calls = results.map(toolCall)
      return [{ role: 'assistant', content: text === '' ? null : text, tool_calls: calls }, ...results.map(toolMessage)]
    }
    return text === '' ? [] : [{ role: 'assistant', content: text }]
  })
}

function toolCall({ part }: ToolResult): Json {
  const { toolCallId, input } = part
  return {
    id: toolCallId,
    type: 'function',
    function: { name: toolNameOf(part), arguments: JSON.stringify(input ?? {}) },
  }
}

function toolMessage({ part, text, isError }: ToolResult): Json {
  return { role: 'tool', tool_call_id: part.toolCallId, content: isError ? `Error: ${text}` : text }
}
