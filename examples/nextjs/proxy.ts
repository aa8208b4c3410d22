import { type NextRequest, NextResponse } from 'next/server'
import { userCookie } from './lib/user'

export function proxy(request: NextRequest): NextResponse {
  const response = NextResponse.next()
  if (!request.cookies.has(userCookie)) {
    response.cookies.set(userCookie, crypto.randomUUID(), { httpOnly: true, sameSite: 'lax' })
  }
  return response
}

export const config = { matcher: ['/', '/chat/:id'] }
