/** Pages of `useChat` on an app whose tools ask (test/control/asking.ts), and what they sent. */
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { openAsking } from '../control/asking.ts'
import { eventually } from '../support/eventually.ts'
import { type SdkChat, sdkChat, textOf } from './sdk.ts'

type Part = SdkChat['messages'][number]['parts'][number]

export const callOf = (chat: SdkChat, id = 'k1'): Part =>
  chat.messages.at(-1)!.parts.find((part) => part.toolCallId === id)!
export const approvalIn = (part: Part): string => (part.approval as { id: string }).id
export const until = (holds: () => boolean) => eventually(async () => holds(), 8_000)
/** The page is ready, and its last reply ends so. */
export const whole = (chat: SdkChat, text: string) =>
  until(() => chat.status === 'ready' && textOf(chat.messages.at(-1)).endsWith(text))

export async function openPages(
  major: SdkMajor,
  steps: Parameters<typeof openAsking>[1],
  pageOptions: object,
  options: Parameters<typeof openAsking>[2] = {},
) {
  const scene = await openAsking(major, steps, options)
  const posts: unknown[] = []
  const counted: typeof fetch = async (input, init) => {
    if (init?.method === 'POST') posts.push(JSON.parse(String(init.body)))
    return await fetch(input, init)
  }
  const page = async (more: object = {}) =>
    await sdkChat(major, {
      url: scene.url,
      id: scene.session,
      headers: { 'x-ai-sdk': String(major) },
      fetch: counted,
      ...pageOptions,
      ...more,
    })
  const stored = async () => (await scene.ann.snapshot(scene.session)).messages.at(-1)!
  return { ...scene, page, posts, stored }
}
