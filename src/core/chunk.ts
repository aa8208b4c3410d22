import type { Json, JsonObject } from './json.ts'

/**
 * A piece of a reply being written, in the shape of the AI SDK's `UIMessageChunk` (majors 6 and 7). Holdfast stores
 * and forwards chunks as they are; only the fields named here are ever read. Unknown types pass through untouched.
 */
export type Chunk =
  | { type: 'start'; messageId?: string; messageMetadata?: JsonObject }
  | { type: 'finish'; finishReason?: string; messageMetadata?: JsonObject }
  | { type: 'abort'; reason?: string }
  | { type: 'error'; errorText: string }
  | { type: 'message-metadata'; messageMetadata: JsonObject }
  | { type: 'start-step' }
  | { type: 'finish-step' }
  | { type: 'text-start' | 'reasoning-start'; id: string; providerMetadata?: JsonObject }
  | { type: 'text-delta' | 'reasoning-delta'; id: string; delta: string; providerMetadata?: JsonObject }
  | { type: 'text-end' | 'reasoning-end'; id: string; providerMetadata?: JsonObject }
  | {
      type: 'tool-input-start'
      toolCallId: string
      toolName: string
      providerExecuted?: boolean
      dynamic?: boolean
      title?: string
      providerMetadata?: JsonObject
      toolMetadata?: JsonObject
    }
  | { type: 'tool-input-delta'; toolCallId: string; inputTextDelta: string }
  | {
      type: 'tool-input-available'
      toolCallId: string
      toolName: string
      input: Json
      providerExecuted?: boolean
      dynamic?: boolean
      title?: string
      providerMetadata?: JsonObject
      toolMetadata?: JsonObject
    }
  | {
      type: 'tool-input-error'
      toolCallId: string
      toolName: string
      input: Json
      errorText: string
      providerExecuted?: boolean
      dynamic?: boolean
      title?: string
      providerMetadata?: JsonObject
      toolMetadata?: JsonObject
    }
  | OtherChunk

/** The rest of the AI SDK's chunk types (tools' outputs, approvals, sources, files, `data-*`, those only of major 7). */
export type OtherChunk = { type: OtherChunkType; [key: string]: Json | undefined }
export type OtherChunkType =
  | 'tool-output-available'
  | 'tool-output-error'
  | 'tool-output-denied'
  | 'tool-approval-request'
  | 'tool-approval-response'
  | 'source-url'
  | 'source-document'
  | 'file'
  | 'reset-step'
  | 'custom'
  | 'reasoning-file'
  | 'steering-message'
  | `data-${string}`

/** A message's part as it is stored and shown: the AI SDK's `UIMessage['parts'][number]`. */
export type Part = { type: string; [key: string]: Json | undefined }
