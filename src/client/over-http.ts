/** Connections over HTTP: loaded apart, because few need them. Where no WebSocket gets through, or the app wants it so. */
import { openPolls, openStream } from './http-lines.ts'
import type { Line, LineStart } from './line.ts'
import { type Shared, type ShareOptions, shareLines } from './shared-line.ts'
import type { Wire } from './wire.ts'

export type OverHttp = { open(as: 'sse' | 'poll', start: LineStart): Line; close(): void }

export function createOverHttp({ wire, name, ...options }: Omit<ShareOptions, 'open'> & { wire: Wire }): OverHttp {
  const shared: { sse?: Shared; poll?: Shared } = {}
  return {
    open(as, start) {
      const open = (of: LineStart) => (as === 'sse' ? openStream : openPolls)(wire, of)
      shared[as] ??= shareLines({ ...options, name: name === null ? null : `${name} ${as}`, open })
      return shared[as].open(start)
    },
    close() {
      shared.sse?.close()
      shared.poll?.close()
    },
  }
}
