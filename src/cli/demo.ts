import { randomBytes } from 'node:crypto'
import { hostname, networkInterfaces } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineCommand } from 'citty'
import { renderUnicodeCompact } from 'uqr'
import { isLoopbackHost } from '../http/principal.ts'
import { createHoldfast, OptionError } from '../index.ts'
import { openDataDir } from './data-dir.ts'
import { createDemoRoutes, demoAuthenticate, demoGuest } from './demo-server.ts'
import { exit } from './exit.ts'
import { fileLog } from './file-log.ts'
import { ignoreDirectory } from './gitignore.ts'
import { listenOrSay } from './listen.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'
import { readSettings, type Settings, storeName } from './settings.ts'
import { supervise } from './supervisor.ts'
import { withKeptKeys } from './vapid.ts'
import { createWebApp, needWebApp } from './web-app.ts'

export const demoCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: { name: 'demo', description: 'Starts the server with the web app, and starts it again whenever it dies.' },
  args: {
    lan: { type: 'boolean', description: 'Be reached from the local network, by a one-time link.' },
  } as const,
  run: ({ args }) => (process.env[childVariable] ? serving : demo)(args.lan === true).catch(exit),
})

const dataDirOf = ({ options }: Settings) => options.dataDir ?? '.holdfast'

/** What the supervisor tells its child by the environment, so that it is the same after each restart. */
const linkVariable = 'HOLDFAST_DEMO_LINK'
const childVariable = 'HOLDFAST_DEMO_CHILD'
type LinkUsed = { linkUsed: true }
type Ready = { url: string; port: number; runner: boolean }

async function demo(lan: boolean): Promise<void> {
  const settings = readSettings(process.env)
  needWebApp()
  if (!lan) refuseToServeNobody(settings)
  const dataDir = dataDirOf(settings)
  openDataDir(dataDir)
  if (!ignoreDirectory(process.cwd(), dataDir)) say('.gitignore cannot be written: add the data directory to it.')
  const token = randomBytes(16).toString('base64url')
  const environment: Record<string, string | undefined> = { ...process.env, [childVariable]: 'yes' }
  if (lan) {
    environment.HOST = isLoopbackHost(settings.host) ? '0.0.0.0' : settings.host
    environment[linkVariable] = `${token}.${Date.now()}`
  }
  const child = supervise({
    command: [
      process.execPath,
      ...process.execArgv,
      fileURLToPath(new URL('main.js', import.meta.url)),
      'demo',
      ...(lan ? ['--lan'] : []),
    ],
    environment,
    onMessage(message, restarts) {
      const ready = message as Ready | LinkUsed
      if ('linkUsed' in ready) {
        delete environment[linkVariable]
        return
      }
      // A port that was chosen for us stays the same.
      environment.PORT = String(ready.port)
      if (restarts > 0) return say(`the server is back at ${ready.url}`)
      say(tidyLines(settings, ready).join('\n'))
      if (lan) say(lanLines(environment.HOST, ready.port, token))
    },
    onRestart: (how) => say(`the server ended (${how}), starting it again`),
    onNeverReady: (signal) => say(`The server was ended (${signal}) before it listened. Start it again.`),
  })
  process.on('SIGINT', child.stop)
  process.on('SIGTERM', child.stop)
  if (process.env.npm_lifecycle_event !== undefined) whenParentGone(child.stop)
  process.exit(await child.ended)
}

function refuseToServeNobody({ options, host }: Settings): void {
  if (isLoopbackHost(host) || options.tokens || options.guests === 'on') return
  throw new OptionError(
    `HOST is ${host}, which other machines reach, and so there are no guests: use "holdfast demo --lan", or set HOLDFAST_GUESTS=on or HOLDFAST_JWT_SECRET.`,
  )
}

const parentEveryMs = 500

/** npm passes SIGTERM on to the shell between it and us, and no further. */
function whenParentGone(act: () => void): void {
  const parent = process.ppid
  const timer = setInterval(() => {
    if (process.ppid === parent) return
    clearInterval(timer)
    act()
  }, parentEveryMs)
  timer.unref()
}

function tidyLines({ options, model }: Settings, { url, runner }: Ready): string[] {
  return [
    '',
    `  Holdfast     ${url}`,
    `  store        ${storeName(options)}`,
    `  runner       ${runner ? 'in this process' : 'elsewhere (HOLDFAST_ROLES)'}`,
    `  model        ${model}`,
    `  realtime     server-sent events, long poll, WebSocket (useChat)`,
    `  add to your app   npm install holdfast && npx holdfast init, in its folder`,
    '',
  ]
}

function lanLines(host: string | undefined, port: number, token: string): string {
  const address = host === undefined || isEveryAddress(host) ? (lanAddress() ?? hostname()) : host
  const link = `http://${address}:${port}/demo/join/${token}`
  return `${renderUnicodeCompact(link)}\n  On a phone in this network, once, within ten minutes:\n  ${link}\n`
}

const isEveryAddress = (host: string) => host === '0.0.0.0' || host === '::'

function lanAddress(): string | undefined {
  return Object.values(networkInterfaces())
    .flat()
    .find((each) => each?.family === 'IPv4' && !each.internal)?.address
}

async function serving(lan: boolean): Promise<void> {
  const settings = readSettings(process.env)
  const { options, host, port, model } = settings
  const dataDir = dataDirOf(settings)
  const who = demoGuest(dataDir)
  const isOnlyGuest = lan && !options.tokens
  const [token, madeAt] = process.env[linkVariable]?.split('.') ?? []
  const chat = createHoldfast({
    log: fileLog(dataDir),
    onDatabaseLost: exit,
    ...withKeptKeys(options),
    ...(isOnlyGuest ? { authenticate: demoAuthenticate(who) } : {}),
  })
  let url = ''
  const routes = createDemoRoutes({
    who,
    isOnlyGuest,
    link: token ? { token, madeAtMs: Number(madeAt) } : null,
    onLinkUsed: () => tellSupervisor({ linkUsed: true }),
    info: () => ({ model, store: storeName(options), url }),
    webApp: createWebApp(),
  })
  const end = () => void chat.close().then(() => process.exit(0), exit)
  process.on('SIGTERM', end)
  // Our supervisor is gone without a word, perhaps before we could hear it: nobody else would end us.
  process.on('disconnect', end)
  if (!process.connected) return end()
  const bound = new URL((await listenOrSay(chat, port, host, routes)).url)
  // Where every address is listened at, the page is opened at one.
  if (isEveryAddress(host)) bound.hostname = 'localhost'
  url = bound.origin
  tellSupervisor({ url, port: Number(bound.port), runner: options.roles?.includes('runner') ?? true })
}

function tellSupervisor(message: Ready | LinkUsed): void {
  if (process.connected) process.send?.(message)
}

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}
