/**
 * Files in a prompt: what a user's message names by its path becomes a `data:` URL, which every provider's SDK knows what
 * to do with, where a path of this server is of no use to anybody. The bytes are read once per attempt. A prompt has room
 * for so many of them, and the newest come first: a file that does not fit any more is a line of text that says so.
 */
import { fileAt } from '../core/file-path.ts'
import type { MessagePart, UserOrAssistantMessage } from '../reply/message.ts'
import type { Database } from '../store/database.ts'
import { fileSlice, fileSliceBytes, promptFiles } from '../store/files.ts'
import { askAgain } from './ask-again.ts'

export type PromptFiles = {
  /** The messages with their files. Called again in the same attempt, for what room is left. */
  give(messages: UserOrAssistantMessage[]): Promise<UserOrAssistantMessage[]>
}

export function openPromptFiles(
  database: Database,
  session: { tenantId: string; sessionId: string },
  options: { bytesMax: number; until: AbortSignal; onLeftOut: (count: number) => void },
): PromptFiles {
  let left = options.bytesMax
  const urls = new Map<string, string>()

  const read = async (fileId: string, { mediaType, size }: { mediaType: string; size: number }) => {
    let url = `data:${mediaType};base64,`
    for (let from = 0; from < size; from += fileSliceBytes) {
      const bytes = await askAgain(() => fileSlice(database, session, fileId, from), options.until)
      if (bytes === null) return undefined
      url += bytes.toString('base64')
    }
    return url
  }

  return {
    async give(messages) {
      const asked = messages.flatMap(filesIn(session.sessionId))
      if (asked.length === 0) return messages
      const ids = [...new Set(asked.map(({ fileId }) => fileId))]
      const there = await askAgain(() => promptFiles(database, session, ids), options.until)
      const given = new Map<MessagePart, string>()
      for (const { part, fileId } of asked.reverse()) {
        const file = there.get(fileId)
        if (file === undefined || file.size > left) continue
        left -= file.size
        const url = urls.get(fileId) ?? (await read(fileId, file))
        if (url === undefined) continue
        urls.set(fileId, url)
        given.set(part, url)
      }
      if (given.size < asked.length) options.onLeftOut(asked.length - given.size)
      const out = new Set<MessagePart>(asked.map(({ part }) => part))
      const replaced = (part: MessagePart) => (out.has(part) ? withFile(part as FilePart, given.get(part)) : part)
      return messages.map((message) => ({ ...message, parts: message.parts.map(replaced) }))
    },
  }
}

type FilePart = Extract<MessagePart, { type: 'file' }>

/** In order, those of this session: no other can be in it, and none would be read. */
function filesIn(sessionId: string) {
  return ({ role, parts }: UserOrAssistantMessage): { part: FilePart; fileId: string }[] =>
    parts.flatMap((part) => {
      if (role !== 'user' || part.type !== 'file') return []
      const at = fileAt(part.url)
      return at?.sessionId === sessionId ? [{ part, fileId: at.fileId }] : []
    })
}

function withFile(part: FilePart, url: string | undefined): MessagePart {
  if (url !== undefined) return { ...part, url }
  const text = `[An attached file that was left out, because there were too many: ${part.filename ?? 'unnamed'}, ${part.mediaType}]`
  return { type: 'text', text }
}
