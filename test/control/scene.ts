/** A session with a watcher, and a provider that fails, waits or answers by what the last message says. */
import { textOf } from '../../src/core/parts.ts'
import { gate, openScene, type Scene, type Step } from '../faults/scene.ts'
import { type Api, ApiError, type Stand, type Watcher } from '../support/client.ts'
import type { ProviderRequest } from '../support/provider.mjs'

export type Talk = Scene & {
  /** Of the first server. */
  url: string
  session: string
  watcher: Watcher
  /** A message that says `wait` is answered in two halves, the second when this is called with its text. */
  goOn(said?: string): void
  /** From now on messages that say `fail` are answered. */
  mend(): void
  command(messageId: string, name: string, body?: object): Promise<Stand>
  /** What is shown, as `role: text`, replies that are not complete with their status. */
  shown(): Promise<string[]>
  /** What the provider was told in its nth request, as `role: text`. */
  prompt(nth: number): string[]
}

export async function openTalk(env: Record<string, string> = {}): Promise<Talk> {
  const scene = await openScene()
  const { provider, ann } = scene
  const gates = new Map<string, ReturnType<typeof gate>>()
  const gateOf = (said: string) => {
    const there = gates.get(said) ?? gate()
    gates.set(said, there)
    return there
  }
  let mended = false
  provider.script((request): Step[] => {
    const said = lastOf(request)
    if (said.includes('fail') && !mended) return [{ status: 400, body: { error: { message: 'no' } } }]
    if (said.includes('later') && !mended) return [{ status: 503, headers: { 'retry-after': '3' } }]
    if (said.includes('overloaded') && !mended) return [{ status: 503 }]
    if (said.includes('wait')) return [{ text: `Half of ${said}` }, { wait: gateOf(said).passed }, { text: ', whole.' }]
    return [{ text: `Re ${said} (${request.index})` }]
  })
  const { url } = await scene.start({ env })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  return {
    ...scene,
    url,
    session,
    watcher,
    goOn: (said = 'wait') => gateOf(said).open(),
    mend() {
      mended = true
    },
    command: (messageId, name, body) => ann.command(session, messageId, name, body),
    shown: () => shownOf(ann, session),
    prompt: (nth) =>
      provider.requests[nth]!.body.messages.map(
        ({ role, content }: { role: string; content: string }) => `${role}: ${content}`,
      ),
  }
}

function lastOf({ body }: ProviderRequest): string {
  return body.messages.findLast(({ role }: { role: string }) => role === 'user').content
}

export async function shownOf(ann: Api, session: string): Promise<string[]> {
  const { messages } = await ann.snapshot(session)
  return messages.map(({ role, status, parts, branch }) => {
    const alternatives = branch === null ? '' : ` [${branch.index + 1}/${branch.count}]`
    return `${role}${status === 'complete' ? '' : ` ${status}`}: ${textOf(parts)}${alternatives}`
  })
}

/** The code of the problem that a request is answered with; null where it has none. */
export const refusedWith = (asked: Promise<unknown>): Promise<string | null> =>
  asked.then(
    () => null,
    (error: unknown) => {
      if (error instanceof ApiError) return error.problem.code
      throw error
    },
  )
