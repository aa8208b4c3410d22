/** What the benchmarks share: the server and the provider stub as processes of their own, a light client, figures. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))
const providerMain = fileURLToPath(new URL('../test/support/provider-main.mjs', import.meta.url))

/** To look closer: `BENCH_NODE_OPTIONS='--cpu-prof --cpu-prof-dir=…' npm run bench -- stream`. */
const nodeOptions = (process.env.BENCH_NODE_OPTIONS ?? '').split(' ').filter(Boolean)

/** A bench runs with its own data directory, which is removed, and ends what it started. */
export async function withMachine(work) {
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-bench-'))
  const children = []
  const machine = {
    dataDir,
    async server(env = {}) {
      const child = spawn(process.execPath, [...nodeOptions, main, 'serve'], {
        env: {
          PATH: process.env.PATH,
          HOME: dataDir,
          PORT: '0',
          HOLDFAST_DATA_DIR: dataDir,
          LOG_LEVEL: 'error',
          HOLDFAST_SENDS_PER_MINUTE: '0',
          ...env,
        },
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      children.push(child)
      const url = await firstLine(child, /^Holdfast\s+(http\S+)/)
      return { url, child, cpu: () => cpuOf(child.pid), postgresCpu: () => cpuOfPostgres(dataDir) }
    },
    /** The same database for another process: the embedded one of the first, by its socket. */
    async databaseUrl() {
      const socketDir = (await readFile(join(dataDir, 'data', 'postmaster.pid'), 'utf8')).split('\n')[4]
      return `postgres://holdfast@localhost/postgres?host=${encodeURIComponent(socketDir)}`
    },
    async provider(steps) {
      const child = spawn(process.execPath, [providerMain, JSON.stringify(steps)], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      children.push(child)
      const { url } = JSON.parse(await firstLine(child, /^(\{.*\})$/))
      return { url, cpu: () => cpuOf(child.pid) }
    },
  }
  try {
    return await work(machine)
  } finally {
    for (const child of children.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue
      child.kill('SIGTERM')
      await once(child, 'exit')
    }
    await rm(dataDir, { recursive: true, force: true })
  }
}

function firstLine(child, pattern) {
  return new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      const found = pattern.exec(line)
      if (found) resolve(found[1])
    })
    child.once('exit', (code) => reject(new Error(`ended with ${code} before ${pattern}`)))
  })
}

/** Seconds of CPU of a process so far, those of its children that have ended included (Linux). */
async function cpuOf(pid) {
  const stat = await statOf(pid)
  return stat.cpu + stat.endedChildrenCpu
}

/** Of all processes of the machine: what is more than those of a benchmark together is somebody else's, and disturbs it. */
export async function cpuOfMachine() {
  const [user, nice, system, , , irq, softirq] = (await readFile('/proc/stat', 'utf8'))
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + irq + softirq) / 100
}

/** The same for the embedded Postgres in a data directory: its first process and all that it started. */
async function cpuOfPostgres(dataDir) {
  const postmaster = Number((await readFile(join(dataDir, 'data', 'postmaster.pid'), 'utf8')).split('\n')[0])
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const stats = await Promise.all(pids.map((pid) => statOf(pid).catch(() => undefined)))
  const backends = stats.filter((stat) => stat?.parent === postmaster)
  return backends.reduce((sum, { cpu }) => sum + cpu, await cpuOf(postmaster))
}

async function statOf(pid) {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1].split(' ').map(Number)
  return { parent: fields[1], cpu: (fields[11] + fields[12]) / 100, endedChildrenCpu: (fields[13] + fields[14]) / 100 }
}

/** Of several processes at once: begins to count, and then says how many cores each has used since. */
export function meters(cpus) {
  const readAll = () => Promise.all(Object.values(cpus).map((cpu) => cpu()))
  return async () => {
    const beganMs = performance.now()
    const before = await readAll()
    return async () => {
      const after = await readAll()
      const seconds = (performance.now() - beganMs) / 1_000
      return Object.keys(cpus)
        .map((name, at) => `${name} ${((after[at] - before[at]) / seconds).toFixed(2)}`)
        .join(', ')
    }
  }
}

export const agent = new Agent({ keepAlive: true, maxSockets: 1_000 })

/** A guest with one session: `{cookie, session, call}`. */
export async function guest(url) {
  const created = await send(url, 'POST', '/v1/sessions', {})
  const cookie = created.headers['set-cookie'][0].split(';')[0]
  return { cookie, session: created.json().id }
}

export function send(url, method, path, body, cookie) {
  const { hostname, port } = new URL(url)
  const text = body === undefined ? undefined : JSON.stringify(body)
  const headers = {
    ...(cookie ? { cookie } : {}),
    ...(text ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) } : {}),
  }
  return new Promise((resolve, reject) => {
    const outgoing = request({ hostname, port, method, path, headers, agent }, (response) => {
      const pieces = []
      response.on('data', (piece) => pieces.push(piece))
      response.on('end', () => {
        const answer = Buffer.concat(pieces).toString()
        resolve({
          status: response.statusCode,
          headers: response.headers,
          text: answer,
          json: () => JSON.parse(answer),
        })
      })
    })
    outgoing.on('error', reject)
    outgoing.end(text)
  })
}

/** Server-sent events, as raw text: `onText` gets what comes. Resolves, when headers are there, to what ends it. */
export function events(url, path, cookie, onText) {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const outgoing = request({ hostname, port, path, headers: { cookie }, agent: false }, (response) => {
      response.setEncoding('utf8')
      response.on('data', onText)
      response.on('error', () => undefined)
      resolve(() => outgoing.destroy())
    })
    outgoing.on('error', reject)
    outgoing.end()
  })
}

export function figures(values) {
  const sorted = Float64Array.from(values).sort()
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]
  return { p50: at(0.5), p99: at(0.99), max: sorted.at(-1), count: sorted.length }
}

export function ms(value) {
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`
}

export function machineLine() {
  return `Node ${process.version}, ${availableParallelism()} cores, ${new Date().toISOString().slice(0, 10)}`
}
