/** Routes that the app's own servers ask for: they bring the server's key, and nobody signs in. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { Problem } from './problem.ts'
import type { HttpParts } from './route.ts'

export type ServerCall = {
  parts: HttpParts
  request: Request
  /** Of the path, each a well-formed id. */
  params: Record<string, string>
}

/** A row of the registry whose right is the server's: its key is what is judged. */
export type ServerRoute = {
  name: string
  method: 'GET' | 'POST' | 'DELETE'
  path: string
  right: 'server'
  /** Users ask for the same path: it is this route for who brings the key. */
  orUser?: true
  endless?: undefined
  handle(call: ServerCall): Promise<Response>
}

/** Without a key of its own a server has no such routes. Rejects with a Problem. */
export function mustBringKey(request: Request, serverKey: string | undefined): void {
  if (serverKey === undefined) throw new Problem('not_found', 'There is no such route.')
  if (!bringsKey(request, serverKey)) {
    throw new Problem('unauthorized', 'Send the server’s key: "Authorization: Bearer" and HOLDFAST_SERVER_KEY.')
  }
}

export function bringsKey(request: Request, serverKey: string | undefined): boolean {
  const brought = /^Bearer (.+)$/i.exec(request.headers.get('authorization') ?? '')?.[1]
  if (brought === undefined || serverKey === undefined) return false
  // Hashes are of one length, whatever was brought.
  return timingSafeEqual(hashOf(brought), hashOf(serverKey))
}

function hashOf(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
