import type { ReplyChunk } from '../reply/reply.ts'

/** A reply's text as chunks: adjacent texts are deltas of one part. */
export type Writing = {
  text(delta: string): ReplyChunk[]
  /** Ends the part that is open. */
  end(): ReplyChunk[]
}

export function createWriting(): Writing {
  let parts = 0
  let open: string | undefined
  return {
    text(delta) {
      const begun: ReplyChunk[] = []
      if (open === undefined) {
        open = `text-${++parts}`
        begun.push({ type: 'text-start', id: open })
      }
      return [...begun, { type: 'text-delta', id: open, delta } as ReplyChunk]
    },
    end() {
      if (open === undefined) return []
      const ended: ReplyChunk = { type: 'text-end', id: open } as ReplyChunk
      open = undefined
      return [ended]
    },
  }
}
