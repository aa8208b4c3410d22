import type { UseChatHelpers } from '@ai-sdk/react'
import type { UIMessage } from 'ai'
import { useEffect } from 'react'

export function useTryAgain({ messages, error, sendMessage, resumeStream, regenerate }: UseChatHelpers<UIMessage>) {
  const isCut = error instanceof TypeError
  const tryAgain = () => {
    // The reply failed, or is being written again: another round, or the one that runs.
    if (!isCut) return regenerate()
    // Nothing of the reply has come: the message may not have arrived. The same message is never sent twice.
    return messages.at(-1)?.role === 'user' ? sendMessage() : resumeStream()
  }
  useEffect(() => {
    if (!isCut) return
    const timer = setTimeout(tryAgain, 1000)
    return () => clearTimeout(timer)
  }, [error])
  return tryAgain
}
