/** A session with a watcher, and a provider that fails, waits or answers by what the last message says. */
import { textOf } from '../../src/core/parts.ts'
import { openScene, type Scene } from '../faults/scene.ts'
import { type Api, ApiError, type Stand, type Watcher } from '../support/client.ts'
import { type Obedient, obedient } from '../support/obedient.ts'

export type Talk = Scene &
  Omit<Obedient, 'script'> & {
    /** Of the first server. */
    url: string
    session: string
    watcher: Watcher
    command(messageId: string, name: string, body?: object): Promise<Stand>
    /** What is shown, as `role: text`, replies that are not complete with their status. */
    shown(): Promise<string[]>
    /** What the provider was told in its nth request, as `role: text`. */
    prompt(nth: number): string[]
  }

export async function openTalk(env: Record<string, string> = {}): Promise<Talk> {
  const scene = await openScene()
  const { provider, ann } = scene
  const { script, goOn, mend } = obedient({
    fail: { status: 400, body: { error: { message: 'no' } } },
    later: { status: 503, headers: { 'retry-after': '3' } },
    overloaded: { status: 503 },
  })
  provider.script(script)
  const { url } = await scene.start({ env })
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  return {
    ...scene,
    url,
    session,
    watcher,
    goOn,
    mend,
    command: (messageId, name, body) => ann.command(session, messageId, name, body),
    shown: () => shownOf(ann, session),
    prompt: (nth) =>
      provider.requests[nth]!.body.messages.map(
        ({ role, content }: { role: string; content: string }) => `${role}: ${content}`,
      ),
  }
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
