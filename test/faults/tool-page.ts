/** A person at a page with `useChat`, while runners die. */
import { lastStep } from '../../src/core/open-step.ts'
import { writtenAgain } from '../../src/core/ui-stream.ts'
import { eventually } from '../support/eventually.ts'
import type { SdkChat } from '../use-chat/sdk.ts'
import type { Random } from './tool-plans.ts'

/** A run takes seconds. */
export const patienceMs = 45_000

type Part = SdkChat['messages'][number]['parts'][number]

/**
 * A person at a page: answers what is asked, as the seed says, until the reply has its end, and tries again where the page
 * is told that it shows what is being written again. Answers how often.
 */
export async function answerAll(page: SdkChat, random: Random, over: AbortSignal): Promise<number> {
  let triedAgain = 0
  await eventually(async () => {
    const asked = page.status === 'ready' ? (page.messages.at(-1)?.parts ?? []).filter(isAsked) : []
    for (const { approval } of asked) {
      await page.addToolApprovalResponse({ id: (approval as { id: string }).id, approved: random(4) > 0 })
    }
    if (page.error?.message === writtenAgain && (!over.aborted || over.reason === 'message.ai_response')) {
      triedAgain++
      await page.regenerate()
      return false
    }
    return page.status === 'error' || (over.aborted && page.status === 'ready')
  }, patienceMs)
  if (page.error !== undefined) throw page.error
  return triedAgain
}
/**
 * The SDK's own `lastAssistantMessageIsCompleteWithApprovalResponses` also waits for the results of calls beside those that
 * were asked about, which a takeover runs only when it has the answers.
 */
export function isAnswered({ messages }: { messages: SdkChat['messages'] }): boolean {
  const step = lastStep((messages.at(-1)?.parts ?? []) as never) as unknown as Part[]
  return step.some(({ state }) => state === 'approval-responded') && !step.some(isAsked)
}
const isAsked = ({ state }: Part) => state === 'approval-requested'
