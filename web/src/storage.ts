/** The browser's storage, for what is being written. It may be full or forbidden: then the page works, and forgets. */

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
