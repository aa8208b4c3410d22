/**
 * Where a stored file is served, and what the part of a message that has it names as its `url`. It names the session, so
 * that its rights are the session's, and tells the runner which file it is.
 */
export function filePath(basePath: string, sessionId: string, fileId: string): string {
  return `${basePath}/v1/sessions/${sessionId}/files/${fileId}`
}

/** Under any base path, which an operator may have changed since. Never with a host of its own: `//host/…` is none. */
const pattern = /^(?:\/[\w.~-]+)*\/v1\/sessions\/([\w.:~-]{1,128})\/files\/([\w-]{43})$/

/** Null: the URL is not that of a stored file. */
export function fileAt(url: string): { sessionId: string; fileId: string } | null {
  const [, sessionId, fileId] = pattern.exec(url) ?? []
  return sessionId === undefined || fileId === undefined ? null : { sessionId, fileId }
}
