/**
 * Ownership of an embedded server: a session advisory lock on one connection that is kept for as long as we live.
 * `kill -9` frees it at once, SIGSTOP does not. A pid in a file would be the other way round.
 */
import { lchown, readFile, stat, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Client, DatabaseError } from 'pg'
import { embeddedUser } from './embedded-cluster.ts'
import { isAlive } from './embedded-process.ts'

export const embeddedDatabase = 'postgres'

/** `hold` and `fast` in ASCII: the two halves of the lock's key. */
const lockKey = [0x686f6c64, 0x66617374]

const connectMs = 5_000
const freedWithinMs = 5_000
/** Postgres keeps 63 bytes of an application name. */
const hostBytesMax = 40

export type Holder = { pid: number; host: string }

/**
 * What came back from a socket: `open` a connection, `starting` a server that lets nobody in yet or any more, `absent`
 * nobody, `silent` somebody who does not get on (stopped, overloaded).
 */
export type Answer = { kind: 'open'; client: Client } | { kind: 'absent' | 'starting' | 'silent'; reason: string }

export async function knock(socketDir: string, port: number): Promise<Answer> {
  const client = new Client({
    host: socketDir,
    port,
    user: embeddedUser,
    database: embeddedDatabase,
    application_name: nameHolder(process.pid),
    connectionTimeoutMillis: connectMs,
  })
  // The loss of the connection is noticed by its end, which always follows; unheard, an error would end the process.
  client.on('error', () => undefined)
  try {
    await client.connect()
    return { kind: 'open', client }
  } catch (error) {
    await client.end().catch(() => undefined)
    return { kind: kindOf(error), reason: (error as Error).message }
  }
}

function kindOf(error: unknown): 'absent' | 'starting' | 'silent' {
  const code = (error as { code?: string }).code
  if (error instanceof DatabaseError) return code === '57P03' ? 'starting' : 'silent'
  return code === 'ENOENT' || code === 'ECONNREFUSED' ? 'absent' : 'silent'
}

/**
 * Takes the lock, or tells who has it. A holder of this machine that has died is waited out: its connection is about
 * to end.
 */
export async function takeLock(client: Client): Promise<Holder | undefined> {
  const until = performance.now() + freedWithinMs
  for (;;) {
    if (await tryLock(client)) return undefined
    const holder = await readHolder(client)
    const mayHaveDied = holder === undefined || (holder.host === shortHost() && !isAlive(holder.pid))
    if (!mayHaveDied || performance.now() > until) return holder ?? { pid: 0, host: 'unknown' }
    await delay(20)
  }
}

async function tryLock(client: Client): Promise<boolean> {
  const { rows } = await client.query<{ locked: boolean }>('select pg_try_advisory_lock($1, $2) as locked', lockKey)
  return rows[0]?.locked === true
}

async function readHolder(client: Client): Promise<Holder | undefined> {
  const { rows } = await client.query<{ name: string }>(
    `select a.application_name as name from pg_locks l join pg_stat_activity a using (pid)
      where l.locktype = 'advisory' and l.classid = $1 and l.objid = $2 and l.objsubid = 2 and l.granted`,
    lockKey,
  )
  return rows[0] && parseHolder(rows[0].name)
}

export async function readServerVersion(client: Client): Promise<string> {
  const { rows } = await client.query<{ version: string }>("select current_setting('server_version') as version")
  return rows[0]!.version
}

/** `holdfast 4711@host`. */
function nameHolder(pid: number): string {
  return `holdfast ${pid}@${shortHost()}`
}

/** Leaves our name in the data directory, for who cannot reach the server to ask it: a process in another container. */
export async function leaveName(dataDir: string): Promise<void> {
  const path = join(dataDir, 'owner')
  const { uid, gid } = await stat(dataDir)
  await writeFile(path, ownName())
  if (process.geteuid?.() === 0) await lchown(path, uid, gid)
}

/** As `leaveName` writes it. */
export function ownName(): string {
  return nameHolder(process.pid)
}

export async function readName(dataDir: string): Promise<Holder> {
  const name = await readFile(join(dataDir, 'owner'), 'utf8').catch(() => undefined)
  return name === undefined ? { pid: 0, host: 'another host' } : parseHolder(name)
}

function parseHolder(name: string): Holder {
  const at = name.indexOf('@')
  return { pid: Number(name.slice('holdfast '.length, at)), host: name.slice(at + 1) }
}

function shortHost(): string {
  return hostname().slice(0, hostBytesMax)
}
