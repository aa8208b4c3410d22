/** The browser's storage, which may be full or forbidden: then the page works, and forgets. */

export function recall(key: string): string | null {
  try {
    return localStorage.getItem(`holdfast:${key}`)
  } catch {
    return null
  }
}

/** What lies under each key that begins so. */
export function recallAll(prefix: string): string[] {
  try {
    return Object.entries({ ...localStorage }).flatMap(([key, text]) =>
      key.startsWith(`holdfast:${prefix}`) ? [text as string] : [],
    )
  } catch {
    return []
  }
}

/** Null forgets. */
export function remember(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(`holdfast:${key}`)
    else localStorage.setItem(`holdfast:${key}`, value)
  } catch {
    // Nothing is lost that was not written here alone; what the server has acknowledged it has.
  }
}

/** A random id. `crypto.randomUUID` is missing where the page comes over plain http from another machine. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}
