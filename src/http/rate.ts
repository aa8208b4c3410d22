/** How a client is told how often it may still send. */
import type { Allowance } from '../store/accept.ts'
import { Problem, problemResponse } from './problem.ts'

/** draft-ietf-httpapi-ratelimit-headers-10: `q` in each window of `w` seconds; `r` are left, and in `t` seconds more. */
export function rateHeaders(allowance: Allowance | null | undefined): Record<string, string> {
  if (!allowance) return {}
  const { max, left, freeInMs } = allowance
  return {
    'ratelimit-policy': `"sends";q=${max};w=60`,
    ratelimit: `"sends";r=${left};t=${Math.ceil(freeInMs / 1000)}`,
  }
}

/** The user has sent as many messages as a minute may have. What is asked again and was done already is not counted. */
export function tooManySendsProblem({ max, freeInMs }: Allowance, userMessageId: string): Problem {
  const detail = `At most ${max} messages a minute, other replies included. Wait a moment and ask again for the same.`
  return new Problem('rate_limited', detail, { retryAfterMs: freeInMs, userMessageId })
}

export function tooManySends(allowance: Allowance, userMessageId: string): Response {
  const response = problemResponse(tooManySendsProblem(allowance, userMessageId))
  for (const [name, value] of Object.entries(rateHeaders(allowance))) response.headers.set(name, value)
  return response
}
