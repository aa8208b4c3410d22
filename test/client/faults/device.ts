/** A client in a user's hand, whose every state is looked at. */
import { WebSocket as NodeSocket } from 'ws'
import {
  createClient,
  type HoldfastClient,
  memoryStorage,
  type SessionHandle,
  type Storage,
  type Transport,
} from '../../../src/client/client.ts'
import { createChecker, type TextOf } from './checker.ts'

export type Device = {
  name: string
  client: HoldfastClient
  handle: SessionHandle
  checker: ReturnType<typeof createChecker>
  /** What is left of it when its page is gone. */
  storage: Storage
  /** Nobody looks any more; `back`: somebody does again. */
  leave(): void
  back(): void
  close(): void
  /** How often its session was begun: as often its snapshot is loaded, and no more. */
  begins: number
}

export type DeviceOptions = {
  name: string
  url: string
  /** In whose name it keeps what it keeps. */
  user: string
  token: string
  session: string
  transport: Transport
  textOf: TextOf
  storage?: Storage
}

export function openDevice({ name, url, user, token, session, transport, textOf, storage }: DeviceOptions): Device {
  const checker = createChecker(name, textOf)
  const kept = storage ?? memoryStorage()
  const client = createClient({
    url,
    token,
    user,
    transport,
    storage: kept,
    fetch: checker.fetchOf(session),
    WebSocket: NodeSocket as never,
  })
  const handle = client.session(session)
  let leave: (() => void) | undefined
  const device: Device = {
    name,
    client,
    handle,
    checker,
    storage: kept,
    begins: 0,
    leave() {
      leave?.()
      leave = undefined
    },
    back() {
      device.begins++
      leave = checker.attach(handle)
    },
    close() {
      device.leave()
      client.close()
    },
  }
  device.back()
  return device
}

/** An event and the snapshot write the fields of a message in orders of their own. */
export const bytesOf = (value: unknown): string =>
  JSON.stringify(value, (_key, each) =>
    typeof each === 'object' && each !== null && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  )

/** What is shown of the server's messages. */
export const shownBytes = ({ handle }: Device): string =>
  bytesOf(handle.getSnapshot().messages.map(({ delivery: _delivery, ...message }) => message))

/** What was wrong with it, all its life. */
export function problemsOf({ name, checker, begins }: Device): string[] {
  const { problems, counts } = checker
  if (counts.snapshots <= begins) return problems
  return [...problems, `${name} loaded its session ${counts.snapshots} times where ${begins} do`]
}
