import { isToolPart, type MessagePart, type ToolPart } from '../reply/message.ts'

/** What the readers need of a conversation before they spell it in their provider's words. */

/** The assistant's parts by step: what the model said and called before it saw the results. */
export function stepsOf(parts: MessagePart[]): MessagePart[][] {
  const steps: MessagePart[][] = [[]]
  for (const part of parts) {
    if (part.type === 'step-start') steps.push([])
    else steps.at(-1)?.push(part)
  }
  return steps.filter((step) => step.length > 0)
}

export type ToolResult = { part: ToolPart; text: string; isError: boolean }

/** The calls of a step that have a result. A call without one would make the provider refuse the whole request. */
export function toolResultsOf(step: MessagePart[]): ToolResult[] {
  return step.filter(isToolPart).flatMap((part) => toolResultOf(part) ?? [])
}

function toolResultOf(part: ToolPart): ToolResult | undefined {
  if (part.providerExecuted === true) return undefined
  switch (part.state) {
    case 'output-available':
      return { part, text: textOfOutput(part.output), isError: false }
    case 'output-error':
      return { part, text: part.errorText, isError: true }
    case 'output-denied':
      return { part, text: part.approval.reason ?? 'The user did not allow this call.', isError: true }
    default:
      return undefined
  }
}

function textOfOutput(output: unknown): string {
  return typeof output === 'string' ? output : JSON.stringify(output)
}

export type FilePart = Extract<MessagePart, { type: 'file' }>

/** What a `data:` URL holds. Null: the file is somewhere else. */
export function base64Of({ url, mediaType }: FilePart): { mediaType: string; data: string } | null {
  const head = /^data:([^;,]*);base64,/.exec(url)
  if (head === null) return null
  return { mediaType: head[1] || mediaType, data: url.slice(head[0].length) }
}

/** The text of a file that is one, an SVG's, too: no provider takes those as images. Null: it is none, or elsewhere. */
export function textOfFile(part: FilePart): string | null {
  if (!part.mediaType.startsWith('text/') && part.mediaType !== 'image/svg+xml') return null
  const file = base64Of(part)
  if (file === null) return null
  return `${part.filename ?? 'An attached file'}:\n\n${Buffer.from(file.data, 'base64').toString('utf8')}`
}

/** Stands for a file that the provider's API cannot take, so that the model knows that there is one. */
export function fileNote({ filename, mediaType }: FilePart): string {
  return `[An attached file that cannot be shown here: ${filename ?? 'unnamed'}, ${mediaType}]`
}
