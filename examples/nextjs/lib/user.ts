/** Instead of a sign-in: who asks is whoever has this cookie, which proxy.ts gives to each browser. */
export const userCookie = 'user'

export function userIn(cookies: string): string | undefined {
  return /(?:^|; )user=([\w-]+)/.exec(cookies)?.[1]
}
