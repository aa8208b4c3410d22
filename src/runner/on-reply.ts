import { cleanJson } from '../core/clean.ts'
import type { JsonObject } from '../core/json.ts'
import { replyMessage } from '../reply/message.ts'
import { askApp } from './app-call.ts'
import type { Attempt, AttemptOptions } from './attempt.ts'

/** It stands in the message and once more in its event, and goes to every client. */
const metadataBytesMax = 32 * 1024

/**
 * What the app's `onReply` says about the reply that has just ended. Null where it says nothing, or nothing that can be
 * used: the reply is stored without it. Why is logged without a word of what it was about.
 */
export async function metadataOf(options: AttemptOptions, attempt: Attempt): Promise<JsonObject | null> {
  const { claimed, fold, model, asked, log, handover } = attempt
  const onReply = options.onReply()
  if (onReply === undefined || asked === null) return null
  const message = { id: claimed.replyId, role: 'assistant' as const, parts: fold.parts(), metadata: fold.metadata() }
  // A copy: what it does to the reply would be stored otherwise, and be another one than was shown (I7).
  const reply = structuredClone({ ...replyMessage(message), model })
  const answer = await askApp(
    async (signal) => readMetadata(await onReply(reply, { ...asked, signal })),
    options.onReplyMs,
    [log.ended, handover],
  )
  const without = (why: string) => {
    const { turnId, attempt: number } = claimed
    options.log('onReply: the reply is stored without its metadata', { turnId, attempt: number, why })
    return null
  }
  switch (answer.how) {
    case 'answered':
      return typeof answer.value === 'string' ? without(answer.value) : answer.value
    case 'failed':
      return without(`it threw ${answer.error}`)
    case 'late':
      return without(`no answer within ${options.onReplyMs} ms`)
    case 'over':
      return log.ended.aborted ? null : without('the process is told to end')
  }
}

/** The object as it is stored; null: nothing was said; a text: why it cannot be used. */
function readMetadata(value: unknown): JsonObject | null | string {
  if (value === undefined || value === null) return null
  const metadata = cleanJson(value)
  if (typeof metadata !== 'object' || metadata === null || Array.isArray(metadata)) return 'it answered no JSON object'
  const bytes = Buffer.byteLength(JSON.stringify(metadata))
  return bytes > metadataBytesMax ? `it answered ${bytes} bytes, more than ${metadataBytesMax}` : metadata
}
