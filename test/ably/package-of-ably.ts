/** The package `ably`, which is too heavy for the repository's own lock: installed by its lock here, in a directory of its own. */
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { AblyRealtime } from '../../src/ably-client/line.ts'
import { run } from '../examples/example.ts'

export type AblyMessage = { name: string; data: unknown; id: string; action: string; extras?: unknown }
type Auth = { authCallback: (params: unknown, callback: (error: string | null, token: object | null) => void) => void }
type Options = Auth & { endpoint: string; port: number; tls: false; useBinaryProtocol: false; logLevel: number }
type Presence = { enter(data?: unknown): Promise<void>; leave(): Promise<void> }
type Listener = (message: AblyMessage) => void
type Channel = {
  on(state: string, listener: () => void): void
  presence: Presence
  attach(): Promise<unknown>
  subscribe(...how: [Listener] | [string, Listener]): Promise<unknown>
  publish(name: string, data: unknown): Promise<unknown>
}
export type Realtime = { channels: { get(name: string): Channel }; close(): void }
export type Rest = { channels: { get(name: string): { publish(name: string, data: unknown): Promise<unknown> } } }

/** What the tests use of it. */
export type Ably = { Realtime: new (options: Options) => Realtime & AblyRealtime; Rest: new (options: Options) => Rest }

export async function installAbly(): Promise<{ Ably: Ably; folder: string; remove(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-ably-'))
  for (const name of ['package.json', 'package-lock.json']) {
    await cp(fileURLToPath(new URL(name, import.meta.url)), join(folder, name))
  }
  await run('npm', ['ci', '--ignore-scripts', '--prefer-offline'], folder)
  const Ably = createRequire(join(folder, 'package.json'))('ably') as Ably
  return { Ably, folder, remove: () => rm(folder, { recursive: true, force: true }) }
}
