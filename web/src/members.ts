/** What owners and members ask of the server about who is in a chat (PROTOCOL.md, P150–P153). Each rejects with its refusal. */
import { HoldfastError, type Member } from 'holdfast/client'
import { recall, remember } from './storage.ts'

export type InviteRole = 'member' | 'reader'
/** `uses`: so many people may accept it; `used`: so many have. */
export type Invite = { id: string; role: InviteRole; uses: number; used: number; expiresAt: string }
type AskedInvite = { role: InviteRole; uses: number; expiresMs: number }

export type Membership = ReturnType<typeof membershipOf>

/** `isDemo`: the page is the demo's own. */
export function membershipOf(sessionId: string, isDemo: boolean) {
  const path = `/v1/sessions/${encodeURIComponent(sessionId)}`
  const memberPath = (userId: string) => `${path}/members/${encodeURIComponent(userId)}`
  return {
    isDemo,
    change: (userId: string, role: string) => ask<Member>('PATCH', memberPath(userId), { role }),
    /** Whether one has muted it oneself. */
    async isMuted(): Promise<boolean> {
      const { data } = await ask<{ data: { muted?: boolean }[] }>('GET', `${path}/members`)
      return data.some(({ muted }) => muted)
    },
    mute: (muted: boolean) => ask<Member>('PATCH', `${path}/membership`, { muted }),
    /** Oneself, too: that is leaving. */
    remove: (userId: string) => ask<null>('DELETE', memberPath(userId)),
    invites: async () => (await ask<{ data: Invite[] }>('GET', `${path}/invites`)).data,
    async invite(asked: AskedInvite): Promise<Invite & { link: string }> {
      const { token, ...invite } = await ask<Invite & { token: string }>('POST', `${path}/invites`, asked)
      remember(inviteKey(token), sessionId)
      return { ...invite, link: linkOf(token, isDemo) }
    },
    revoke: (inviteId: string) => ask<null>('DELETE', `${path}/invites/${encodeURIComponent(inviteId)}`),
  }
}

/** Makes the caller a member, and a guest of who is nobody so far. Answers the chat. */
export async function acceptInvite(token: string): Promise<string> {
  const { sessionId } = await ask<{ sessionId: string }>('POST', '/v1/invites/accept', { token })
  remember(inviteKey(token), sessionId)
  return sessionId
}

/** The chat that this device knows the invitation to be to. Of its token only a beginning is kept, with which nobody joins. */
export const chatOfInvite = (token: string): string | null => recall(inviteKey(token))
const inviteKey = (token: string) => `invite:${token.slice(0, 8)}`

/**
 * Behind the `#`, which is sent to no server and stands in no log. The demo makes a browser on its machine its one guest,
 * unless it is asked for another one: who is invited is somebody else.
 */
function linkOf(token: string, isDemo: boolean): string {
  return `${location.origin}${location.pathname}${isDemo ? '?guest' : ''}#/invite/${token}`
}

const answerMs = 5_000

/** Asked once: who asked for it sees that no answer came, and asks again. */
async function ask<T>(method: string, path: string, body?: object): Promise<T> {
  const answer = await fetch(path, {
    method,
    headers: { accept: 'application/json', ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    signal: AbortSignal.timeout(answerMs),
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  }).catch(() => null)
  if (answer?.status === 204) return null as T
  const said = (await answer?.json().catch(() => null)) as { [key: string]: unknown } | null | undefined
  if (answer?.ok === true && said) return said as T
  const { detail, code, retryAfterMs } = said ?? {}
  if (!answer || typeof detail !== 'string' || typeof code !== 'string') {
    throw new HoldfastError('The server does not answer. Try again.', 'unreachable', answer?.status ?? 0, true)
  }
  const laterMs = typeof retryAfterMs === 'number' ? retryAfterMs : undefined
  throw new HoldfastError(detail, code, answer.status, laterMs !== undefined, laterMs)
}
