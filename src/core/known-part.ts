import type { Json, JsonObject } from './json.ts'

/**
 * A part as the AI SDK's types spell it, so that it fits both of its majors: what a `Part` is that came through the fold.
 * `Tools` are the app's, by their names. Parts that only a newer SDK knows are there at run time too.
 */
export type KnownPart<Tools extends ToolTypes = AnyTools> =
  | { type: 'text'; text: string; state?: 'streaming' | 'done'; providerMetadata?: ProviderMetadata }
  | { type: 'reasoning'; text: string; state?: 'streaming' | 'done'; providerMetadata?: ProviderMetadata }
  | { type: 'file'; mediaType: string; url: string; filename?: string; providerMetadata?: ProviderMetadata }
  | { type: 'source-url'; sourceId: string; url: string; title?: string; providerMetadata?: ProviderMetadata }
  | SourceDocumentPart
  | { type: 'step-start' }
  | { type: `data-${string}`; id?: string; data: Json }
  | KnownToolPart<Tools>

/** What goes into each tool and what comes out. */
export type ToolTypes = { [name: string]: { input: unknown; output: unknown } }
export type AnyTools = { [name: string]: { input: Json; output: Json } }

type ProviderMetadata = { [provider: string]: JsonObject }
type SourceDocumentPart = {
  type: 'source-document'
  sourceId: string
  mediaType: string
  title: string
  filename?: string
  providerMetadata?: ProviderMetadata
}

export type KnownToolPart<Tools extends ToolTypes = AnyTools> =
  | { [Name in keyof Tools & string]: { type: `tool-${Name}` } & Call<Tools[Name]> }[keyof Tools & string]
  | ({ type: 'dynamic-tool'; toolName: string } & Call<AnyTools[string]>)

type Call<Tool extends ToolTypes[string]> = {
  toolCallId: string
  title?: string
  providerExecuted?: boolean
  callProviderMetadata?: ProviderMetadata
} & ToolState<Tool['input'], Tool['output']>

type Answered<Approved extends boolean> = { id: string; approved: Approved; reason?: string }
/** While its input streams, that is whatever has come of it. */
type ToolState<Input, Output> =
  | { state: 'input-streaming'; input?: Json }
  | { state: 'input-available'; input: Input }
  | { state: 'approval-requested'; input: Input; approval: { id: string } }
  | { state: 'approval-responded'; input: Input; approval: Answered<boolean> }
  | { state: 'output-available'; input: Input; output: Output; approval?: Answered<true> }
  | { state: 'output-error'; input: Input; errorText: string; approval?: Answered<true> }
  | { state: 'output-denied'; input: Input; approval: Answered<false> }
