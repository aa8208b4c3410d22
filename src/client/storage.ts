/**
 * Where a client keeps what must outlive the page or the app: messages that no server has acknowledged, and what was
 * shown last. Texts by key; whoever writes knows what is in them.
 */
export type Storage = {
  /** All whose key begins so, in the order of their keys. */
  entries(prefix: string): Promise<[key: string, value: string][]>
  set(key: string, value: string): Promise<void>
  remove(key: string): Promise<void>
}

/** Of this process only. */
export function memoryStorage(): Storage {
  const values = new Map<string, string>()
  return {
    entries: async (prefix) => [...values].filter(([key]) => key.startsWith(prefix)).sort(byKey),
    async set(key, value) {
      values.set(key, value)
    },
    async remove(key) {
      values.delete(key)
    },
  }
}

const byKey = ([a]: [string, string], [b]: [string, string]) => (a < b ? -1 : 1)

/** The browser's IndexedDB, which all tabs of an origin share. Rejects where there is none, as in some private windows. */
export function indexedDbStorage(name = 'holdfast'): Storage {
  let opening: Promise<IDBDatabase> | undefined
  const open = () => {
    opening ??= new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(name, 1)
      request.onupgradeneeded = () => request.result.createObjectStore(storeName)
      request.onerror = () => reject(request.error)
      request.onsuccess = () => {
        const database = request.result
        // Another tab deletes it, or the browser takes it away: the next one opens it again.
        database.onversionchange = () => {
          database.close()
          opening = undefined
        }
        database.onclose = () => {
          opening = undefined
        }
        resolve(database)
      }
    }).catch((error: unknown) => {
      opening = undefined
      throw error
    })
    return opening
  }
  /** All in one go: what another tab does between two would be told half. `ask` answers how to read what was asked. */
  const act = async <T>(mode: IDBTransactionMode, ask: (store: IDBObjectStore) => () => T): Promise<T> => {
    const database = await open()
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(storeName, mode, { durability: 'strict' })
      const read = ask(transaction.objectStore(storeName))
      transaction.oncomplete = () => resolve(read())
      transaction.onabort = () => reject(transaction.error)
    })
  }
  const write = (ask: (store: IDBObjectStore) => unknown) =>
    act('readwrite', (store) => {
      ask(store)
      return () => undefined
    })
  return {
    entries: (prefix) =>
      act('readonly', (store) => {
        const range = IDBKeyRange.bound(prefix, `${prefix}\uffff`)
        const [keys, values] = [store.getAllKeys(range), store.getAll(range)]
        return () => keys.result.map((key, at): [string, string] => [String(key), String(values.result[at])])
      }),
    set: (key, value) => write((store) => store.put(value, key)),
    remove: (key) => write((store) => store.delete(key)),
  }
}
const storeName = 'texts'

/** By the shape of React Native's `AsyncStorage`, which `expo-sqlite/kv-store` has, too. */
export type AsyncStorageShape = {
  getAllKeys(): Promise<readonly string[]>
  getItem(key: string): Promise<string | null>
  setItem(key: string, value: string): Promise<unknown>
  removeItem(key: string): Promise<unknown>
}

export function asyncStorage(given: AsyncStorageShape): Storage {
  return {
    async entries(prefix) {
      const keys = (await given.getAllKeys()).filter((key) => key.startsWith(prefix)).sort()
      const values = await Promise.all(keys.map((key) => given.getItem(key)))
      return keys.flatMap((key, at): [string, string][] => (values[at] == null ? [] : [[key, values[at]]]))
    },
    async set(key, value) {
      await given.setItem(key, value)
    },
    async remove(key) {
      await given.removeItem(key)
    },
  }
}

/** By the shape of `react-native-mmkv` (3: `delete`, 4: `remove`). */
export type MmkvShape = {
  getAllKeys(): string[]
  getString(key: string): string | undefined
  set(key: string, value: string): void
} & ({ delete(key: string): unknown } | { remove(key: string): unknown })

export function mmkvStorage(given: MmkvShape): Storage {
  return asyncStorage({
    getAllKeys: async () => given.getAllKeys(),
    getItem: async (key) => given.getString(key) ?? null,
    setItem: async (key, value) => given.set(key, value),
    removeItem: async (key) => ('remove' in given ? given.remove(key) : given.delete(key)),
  })
}
