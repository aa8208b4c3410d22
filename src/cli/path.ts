import type { IncomingMessage } from 'node:http'

/** The path of a request as it came. `new URL` would throw for some that anybody may send, such as `//`. */
export function pathOf({ url = '/' }: IncomingMessage): string {
  return url.split('?')[0] as string
}
