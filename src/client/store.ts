/** Something that changes, as `useSyncExternalStore` and its like take it. */
export type Readable<Value> = {
  /** `hear` is called after each change. Answers what ends that. */
  subscribe(hear: () => void): () => void
  /** The same object as long as nothing changed. */
  getSnapshot(): Value
}

export type Writable<Value> = Readable<Value> & {
  set(value: Value): void
}

/** `begin` is called when the first subscribes, and what it answers when nobody does any more. */
export function createStore<Value>(first: Value, begin?: () => () => void): Writable<Value> {
  let value = first
  let end: (() => void) | undefined
  const hearers = new Set<() => void>()
  return {
    subscribe(hear) {
      // The same function may subscribe twice.
      const each = () => hear()
      // Before it hears: what is so from now on it will look at itself.
      if (hearers.size === 0) end = begin?.()
      hearers.add(each)
      return () => {
        if (hearers.delete(each) && hearers.size === 0) end?.()
      }
    },
    getSnapshot: () => value,
    set(next) {
      if (Object.is(next, value)) return
      value = next
      for (const each of [...hearers]) each()
    },
  }
}
