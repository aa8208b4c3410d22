/** What every fault test has: a database, a provider, a client that finds the server wherever it is now. */
import { onTestFinished } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { type Api, apiOf, type Frame, isOutcomeOf, type Watcher } from '../support/client.ts'
import type { Step } from '../support/obedient.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'
import { type Provider, startProvider } from '../support/provider.mjs'
import { type ServerSettings, startServer, type TestServer } from '../support/server.ts'

export { gate, type Step } from '../support/obedient.ts'

/** A short lease and poll, so that a takeover takes about a second. */
export const quick = { HOLDFAST_LEASE_MS: '1000', HOLDFAST_POLL_MS: '200' }

export type Scene = {
  database: string
  provider: Provider
  ann: Api
  /** Starts one more server. Clients ask the one that was started last, unless it has no `http` role. */
  start(settings?: Partial<ServerSettings>): Promise<TestServer>
}

/** Everything that it opened is closed after the test. `database`: one of the test's own instead of a fresh one. */
export async function openScene(database?: string): Promise<Scene> {
  const fresh = database === undefined ? await freshDatabase(18) : undefined
  const provider = await startProvider()
  onTestFinished(async () => {
    await provider.stop()
    await fresh?.drop()
  })
  let url = ''
  const scene: Scene = {
    database: database ?? fresh!.url,
    provider,
    ann: await apiOf(() => url),
    async start({ env = {}, ...settings } = {}) {
      const server = await startServer({
        database: scene.database,
        provider: provider.url,
        ...settings,
        env: { ...quick, ...env },
      })
      if (env.HOLDFAST_ROLES !== 'runner') url = server.url
      return server
    },
  }
  return scene
}

/** The text of a long reply; each request to the provider is answered differently, so that attempts can be told apart. */
export function pieces(request: number, count = 300): string[] {
  return Array.from({ length: count }, (_, at) => `r${request}.${at} `)
}

/** The same as the provider's steps, a few at a time, so that a reply takes a while. */
export function slowly(texts: string[], each = 6, pauseMs = 4): Step[] {
  return texts.flatMap((text, at): Step[] => (at % each === each - 1 ? [{ text }, { pauseMs }] : [{ text }]))
}

export function outcomesOf({ frames }: Watcher, messageId: string): Frame[] {
  return frames.filter((frame) => isOutcomeOf(frame, messageId))
}

/** The text of the reply that an outcome's event holds. */
export const textIn = (outcome: Frame): string => textOf(outcome.data.message.parts)

export const ofType = ({ frames }: Watcher, type: string): Frame[] => frames.filter((frame) => frame.type === type)

/** Lines of the servers' logs: each says which write of an attempt that had lost its turn was refused. */
export const refusalsOf = (...servers: TestServer[]): string[] =>
  servers.flatMap(({ lines }) => lines).filter((line) => line.includes('stale write refused'))

/**
 * Kills the runner, and resolves to when the lease of its turn (the only one that runs) ends, by the database's clock.
 * Compared with the time of the next `attempt.started`, which is of the same clock, it tells how late a takeover was
 * whatever the test's own process was late by.
 */
export async function killRunner({ database }: Scene, runner: TestServer): Promise<number> {
  await runner.kill()
  const rows = await queryOnce<{ attempt: number; lease_until: Date }>(
    database,
    `select attempt, lease_until from holdfast.turns where state = 'running'`,
  )
  if (rows.length !== 1 || rows[0]!.attempt !== 1) throw new Error(`expected attempt 1: ${JSON.stringify(rows)}`)
  return rows[0]!.lease_until.getTime()
}
