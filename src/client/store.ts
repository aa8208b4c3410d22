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

export function createStore<Value>(first: Value): Writable<Value> {
  let value = first
  const hearers = new Set<() => void>()
  return {
    subscribe(hear) {
      hearers.add(hear)
      return () => {
        hearers.delete(hear)
      }
    },
    getSnapshot: () => value,
    set(next) {
      if (Object.is(next, value)) return
      value = next
      for (const hear of [...hearers]) hear()
    },
  }
}
