/**
 * Directories that are whole or absent: made under a draft name, which tells who makes them, and then renamed.
 */
import { rename, rm, stat } from 'node:fs/promises'
import { isAlive } from './embedded-process.ts'

const draftMark = '.draft-'

/** A name for what is being made and will be renamed; it tells who makes it, so that others know when to clear up. */
export function draftName(target: string): string {
  return `${target}${draftMark}${process.pid}`
}

/** Whether nobody works any more on what has this name. Our own pid in it is a predecessor's: we only begin. */
export function isAbandoned(name: string): boolean {
  if (!name.includes(draftMark)) return true
  const pid = Number(name.slice(name.lastIndexOf('-') + 1))
  return pid === process.pid || !isAlive(pid)
}

/** False: somebody else was quicker, and the draft was thrown away. */
export async function renameUnlessThere(draft: string, target: string): Promise<boolean> {
  try {
    await rename(draft, target)
    return true
  } catch (error) {
    await rm(draft, { recursive: true, force: true })
    if (await exists(target)) return false
    throw error
  }
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/**
 * Removes what nobody needs. It may still be written to (an initdb survives its parent) or belong to another user; what
 * cannot be removed costs only its room, and the next start tries again.
 */
export async function removeTree(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 }).catch(() => undefined)
}
