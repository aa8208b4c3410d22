/** Databases and servers for tests. The servers of the run are started by global-setup.ts. */
import { randomUUID } from 'node:crypto'
import { Client, type QueryResultRow } from 'pg'
import { inject } from 'vitest'
import { type Cluster, makeCluster, type PostgresVersion } from './cluster.ts'

export type { Cluster, PostgresVersion } from './cluster.ts'

export const postgresVersions: PostgresVersion[] = [15, 18]

/** A new and empty database, without the migrations. `drop` also closes what is still connected to it. */
export async function freshDatabase(version: PostgresVersion): Promise<{ url: string; drop(): Promise<void> }> {
  const admin = version === 15 ? inject('postgres').url15 : inject('postgres').url18
  const name = `test_${randomUUID().replaceAll('-', '')}`
  await queryOnce(admin, `create database ${name} template template0`)
  const url = new URL(admin)
  url.pathname = `/${name}`
  return {
    url: url.href,
    drop: () => queryOnce(admin, `drop database if exists ${name} with (force)`).then(() => undefined),
  }
}

/**
 * A server that is this test's alone, to be killed, frozen, restarted. `settings` are `name=value`. Takes 0.8 s; call
 * `remove` when done.
 */
export async function privateCluster(version: PostgresVersion = 18, settings: string[] = []): Promise<Cluster> {
  const { binaries15, binaries18 } = inject('postgres')
  return makeCluster(version, version === 15 ? binaries15 : binaries18, settings)
}

/** One statement, on a connection of its own. */
export async function queryOnce<Row extends QueryResultRow>(
  url: string,
  statement: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const client = new Client({ connectionString: url })
  await client.connect()
  const { rows } = await client.query<Row>(statement, values).finally(() => client.end())
  return rows
}
