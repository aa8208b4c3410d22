import type { Chunk } from '../core/chunk.ts'
import type { Json, JsonObject } from '../core/json.ts'

type Kind = 'text' | 'reasoning'
type Metadata = { providerMetadata?: JsonObject }

/** Writes one step of a model as chunks: opens and closes the parts around the deltas of a provider's stream. */
export class StepWriter {
  private chunks: Chunk[] = [{ type: 'start-step' }]
  private open: { kind: Kind; id: string } | undefined
  private partCount = 0

  /** The chunks since the last call. */
  take(): Chunk[] {
    const taken = this.chunks
    this.chunks = []
    return taken
  }

  delta(kind: Kind, delta: string): void {
    const id = this.open?.kind === kind ? this.open.id : this.openPart(kind)
    this.chunks.push({ type: `${kind}-delta`, id, delta })
  }

  openPart(kind: Kind): string {
    this.closePart()
    this.partCount += 1
    const id = `${kind}-${this.partCount}`
    this.open = { kind, id }
    this.chunks.push({ type: `${kind}-start`, id })
    return id
  }

  closePart(metadata: Metadata = {}): void {
    if (this.open === undefined) return
    this.chunks.push({ type: `${this.open.kind}-end`, id: this.open.id, ...metadata })
    this.open = undefined
  }

  openTool(toolCallId: string, toolName: string): void {
    this.closePart()
    this.chunks.push({ type: 'tool-input-start', toolCallId, toolName })
  }

  toolDelta(toolCallId: string, inputTextDelta: string): void {
    this.chunks.push({ type: 'tool-input-delta', toolCallId, inputTextDelta })
  }

  closeTool(toolCallId: string, toolName: string, inputText: string): void {
    const input = parsedInput(inputText)
    if (input === undefined) {
      const errorText = 'The model wrote arguments that are not JSON.'
      this.chunks.push({ type: 'tool-input-error', toolCallId, toolName, input: inputText, errorText })
    } else {
      this.chunks.push({ type: 'tool-input-available', toolCallId, toolName, input })
    }
  }

  /** `undefined`: the provider gave a reason that the chunk's type has no word for. */
  finish(finishReason: string | undefined): void {
    this.closePart()
    this.chunks.push({ type: 'finish-step' })
    this.chunks.push(finishReason === undefined ? { type: 'finish' } : { type: 'finish', finishReason })
  }
}

function parsedInput(text: string): Json | undefined {
  if (text.trim() === '') return {}
  try {
    return JSON.parse(text) as Json
  } catch {
    // Told to the reader of the chunks as `tool-input-error`.
    return undefined
  }
}
