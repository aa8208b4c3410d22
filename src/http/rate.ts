/** How a client is told how often it may still do something, and what is refused to it. */

import { spendSentence } from '../core/asks.ts'
import type { Sink } from '../log/hub.ts'
import type { Allowance, SendRates } from '../store/accept.ts'
import { spendingsOf } from '../usage/budgets.ts'
import { Problem, problemResponse } from './problem.ts'
import type { HttpParts, Within } from './route.ts'

/**
 * When one more turn may be open nobody knows: the client is to ask again after so long. (A turn that ends while a
 * client counts down is not told to it.)
 */
const openTurnsAgainMs = 5_000
/** The same of connections and follows. */
const againMs = 5_000

const numbers = new Intl.NumberFormat('en-US')
const said = (count: number) => numbers.format(count)

/** What a user may send here, as the store wants it. The server itself is counted nowhere. */
export async function ratesOf({ parts, params, principal }: Within<string | null>): Promise<SendRates> {
  const { userId, tenantId, plan = null } = principal
  if (userId === null) return { sendsMax: 0 }
  const limits = await parts.limitsOf({ ...principal, userId })
  const { sendsPerMinute: sendsMax, openTurns, tellsPlan } = limits
  if (openTurns === 0 && !tellsPlan) return { sendsMax }
  const final = limits.budgets.filter(({ mayGoOn }) => mayGoOn === 'nobody')
  const budgets = spendingsOf(final, { tenantId, userId, sessionId: params.sessionId! })
  return { sendsMax, more: { openTurns, plan, budgets } }
}

/** draft-ietf-httpapi-ratelimit-headers-10: `q` in each window of `w` seconds, or at a time; `r` are left, and in `t` seconds more. */
export function rateHeaders(allowance: Allowance | null | undefined): Record<string, string> {
  if (!allowance) return {}
  const { max, left, freeInMs, openTurns, reached, budget } = allowance
  const [policies, limits]: [string[], string[]] = [[], []]
  if (max > 0) {
    policies.push(`"sends";q=${max};w=60`)
    limits.push(`"sends";r=${left};t=${seconds(freeInMs)}`)
  }
  if (openTurns !== undefined) {
    policies.push(`"open-turns";q=${openTurns.max}`)
    const again = reached === 'openTurns' ? `;t=${seconds(openTurnsAgainMs)}` : ''
    limits.push(`"open-turns";r=${openTurns.left}${again}`)
  }
  if (budget !== undefined) {
    policies.push(`"${budget.id}";q=${budget.max}`)
    limits.push(`"${budget.id}";r=0${budget.freeInMs === null ? '' : `;t=${seconds(budget.freeInMs)}`}`)
  }
  if (policies.length === 0) return {}
  return { 'ratelimit-policy': policies.join(', '), ratelimit: limits.join(', ') }
}

/** The user has sent as many messages, or has as many turns open, as they may. What is asked again and was done already is not counted. */
export function tooManySendsProblem(allowance: Allowance, userMessageId: string): Problem {
  const { max, freeInMs, openTurns, reached, budget } = allowance
  if (budget !== undefined) {
    const renewed = budget.freeInMs === null ? {} : { retryAfterMs: budget.freeInMs }
    const more = { ...renewed, userMessageId, retryable: budget.freeInMs !== null }
    return new Problem('budget_exceeded', spendSentence(budget), more)
  }
  if (reached === 'openTurns') {
    const detail = `At most ${said(openTurns!.max)} of your messages may wait for their replies at a time. Wait until one is answered, or stop one, and ask again for the same.`
    return new Problem('rate_limited', detail, { retryAfterMs: openTurnsAgainMs, userMessageId })
  }
  const detail = `At most ${said(max)} messages a minute, other replies included. Wait a moment and ask again for the same.`
  return new Problem('rate_limited', detail, { retryAfterMs: freeInMs, userMessageId })
}

export function tooManySends(allowance: Allowance, userMessageId: string): Response {
  const response = problemResponse(tooManySendsProblem(allowance, userMessageId))
  for (const [name, value] of Object.entries(rateHeaders(allowance))) response.headers.set(name, value)
  return response
}

type Who = { parts: Pick<HttpParts, 'limitsOf' | 'limitsHere'>; principal: Within['principal'] }

/** One more connection of theirs, until what this resolves to is called. Rejects with the `Problem` of one too many. */
export async function connect({ parts, principal }: Who): Promise<() => void> {
  const { connections } = await parts.limitsOf(principal)
  const leave = parts.limitsHere.connect(principal, connections)
  if (leave !== null) return leave
  const detail = `At most ${said(connections)} connections of yours may be open here at a time. Close some, then connect again.`
  throw new Problem('rate_limited', detail, {
    retryAfterMs: againMs,
    headers: {
      'ratelimit-policy': `"connections";q=${connections}`,
      ratelimit: `"connections";r=0;t=${seconds(againMs)}`,
    },
  })
}

/** One session that is followed: what is told there is counted until its reader has caught up. */
export type Followed = { metered(sink: Sink): Sink; unfollow(): void }

/** Rejects with the `Problem` of one too many, and of who was sent too much of what they had missed. */
export async function mayFollow({ parts, principal }: Who): Promise<Followed> {
  const { follows, resumeBytesPerMinute: bytesMax } = await parts.limitsOf(principal)
  const waitMs = parts.limitsHere.resumesInMs(principal, bytesMax)
  if (waitMs > 0) {
    const detail = `At most ${said(bytesMax)} bytes of what you have missed are sent within a minute. Wait a moment and follow again.`
    throw new Problem('rate_limited', detail, {
      retryAfterMs: waitMs,
      headers: {
        'ratelimit-policy': `"resume-bytes";q=${bytesMax};qu="content-bytes";w=60`,
        ratelimit: `"resume-bytes";r=0;t=${seconds(waitMs)}`,
      },
    })
  }
  const unfollow = parts.limitsHere.follow(principal, follows)
  if (unfollow === null) {
    const detail = `At most ${said(follows)} sessions may be followed here at a time, on all of your connections together. Unfollow one first.`
    throw new Problem('rate_limited', detail, {
      retryAfterMs: againMs,
      headers: { 'ratelimit-policy': `"follows";q=${follows}`, ratelimit: `"follows";r=0;t=${seconds(againMs)}` },
    })
  }
  return { metered: (sink) => parts.limitsHere.metered(principal, sink), unfollow }
}

/** A connection on which one session is followed. */
export async function connectAndFollow(who: Who): Promise<Followed> {
  const leave = await connect(who)
  try {
    const { metered, unfollow } = await mayFollow(who)
    return {
      metered,
      unfollow() {
        unfollow()
        leave()
      },
    }
  } catch (error) {
    leave()
    throw error
  }
}

const seconds = (ms: number) => Math.ceil(ms / 1000)
