/** The AI SDK's own client without React: what `useChat` is around, with `DefaultChatTransport`, in both majors. */
import { AbstractChat as Chat6, DefaultChatTransport as Transport6 } from 'ai'
import { AbstractChat as Chat7, DefaultChatTransport as Transport7 } from 'ai7'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { tokenOf } from '../support/server.ts'

export type SdkMessage = {
  id: string
  role: string
  parts: { type: string; [field: string]: unknown }[]
  metadata?: unknown
}

/** What `useChat` answers, as far as these tests use it. */
export type SdkChat = {
  readonly messages: SdkMessage[]
  readonly status: 'ready' | 'submitted' | 'streaming' | 'error'
  readonly error: Error | undefined
  sendMessage(message?: object, options?: object): Promise<void>
  regenerate(options?: object): Promise<void>
  resumeStream(): Promise<void>
  stop(): Promise<void>
  addToolApprovalResponse(response: { id: string; approved: boolean; reason?: string }): Promise<void>
  addToolOutput(
    result: { tool: string; toolCallId: string } & ({ output: unknown } | { state: 'output-error'; errorText: string }),
  ): Promise<void>
}

/** Holds what the client shows; resolves whoever waits for a change. */
class State {
  status = 'ready'
  error: Error | undefined
  messages: SdkMessage[]
  constructor(messages: SdkMessage[]) {
    this.messages = messages
  }
  pushMessage = (message: SdkMessage) => {
    this.messages = [...this.messages, message]
  }
  popMessage = () => {
    this.messages = this.messages.slice(0, -1)
  }
  replaceMessage = (index: number, message: SdkMessage) => {
    this.messages = this.messages.map((each, at) => (at === index ? structuredClone(message) : each))
  }
  snapshot = <T>(thing: T): T => structuredClone(thing)
}

export type SdkOptions = {
  url: string
  id: string
  user?: string
  messages?: SdkMessage[]
  headers?: Record<string, string>
  fetch?: typeof fetch
  [option: string]: unknown
}

export async function sdkChat(
  major: SdkMajor,
  { url, id, user = 'ann', messages = [], headers = {}, fetch = globalThis.fetch, ...more }: SdkOptions,
): Promise<SdkChat> {
  const token = await tokenOf(user)
  const options = { api: `${url}/api/chat`, headers: { authorization: `Bearer ${token}`, ...headers }, fetch }
  const transport = major === 6 ? new Transport6(options) : new Transport7(options)
  const given = { id, transport, state: new State(messages), ...more }
  // Its constructor is protected, for frameworks to extend; the two majors' types differ and are the vendor's affair.
  type Constructor = new (given: object) => SdkChat
  const Base = (major === 6 ? Chat6 : Chat7) as unknown as Constructor
  class SdkClient extends Base {}
  return new SdkClient(given)
}

export function textOf(message: SdkMessage | undefined): string {
  return (message?.parts ?? []).flatMap(({ type, text }) => (type === 'text' ? [String(text)] : [])).join('')
}
export const shownBy = ({ messages }: SdkChat): string[] =>
  messages.map((message) => `${message.role}: ${textOf(message)}`)
