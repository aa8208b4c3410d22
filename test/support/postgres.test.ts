import { Client } from 'pg'
import { afterEach, describe, expect, test } from 'vitest'
import { type Cluster, freshDatabase, postgresVersions, privateCluster } from './postgres.ts'

let cluster: Cluster | undefined
afterEach(async () => {
  await cluster?.remove()
  cluster = undefined
})

async function ask(url: string, question: string): Promise<unknown> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 1_000, query_timeout: 1_000 })
  client.on('error', () => undefined)
  try {
    await client.connect()
    const { rows } = await client.query(question)
    return Object.values(rows[0])[0]
  } finally {
    await client.end()
  }
}

describe.each(postgresVersions)('PostgreSQL %i for tests', (version) => {
  test('gives a new and empty database of that version, with fsync', async () => {
    const database = await freshDatabase(version)
    expect(await ask(database.url, 'show server_version')).toMatch(new RegExp(`^${version}\\.`))
    expect(await ask(database.url, 'show fsync')).toBe('on')
    expect(await ask(database.url, 'select count(*)::int from pg_stat_user_tables')).toBe(0)
    await database.drop()
    await expect(ask(database.url, 'select 1')).rejects.toMatchObject({ code: '3D000' })
  })

  test('gives a server of its own that survives a kill, a crash and a freeze', async () => {
    cluster = await privateCluster(version, ['max_connections=20'])
    const { url } = cluster
    expect(await ask(url, 'show max_connections')).toBe('20')
    const first = await cluster.pid()
    await cluster.kill()
    await expect(ask(url, 'select 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await cluster.start()
    expect(await cluster.pid()).not.toBe(first)
    await cluster.restart('immediate')
    expect(await ask(url, 'select 1')).toBe(1)
    await cluster.freeze()
    await expect(ask(url, 'select 1')).rejects.toThrow(/timeout/)
    await cluster.thaw()
    expect(await ask(url, 'select 1')).toBe(1)
  })

  test('leaves nothing behind when it is removed while frozen', async () => {
    cluster = await privateCluster(version)
    await cluster.freeze()
    await cluster.remove()
    await expect(ask(cluster.url, 'select 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  })
})
