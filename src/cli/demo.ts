import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { hostname, networkInterfaces } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineCommand } from 'citty'
import { renderUnicodeCompact } from 'uqr'
import { createHoldfast } from '../index.ts'
import { createDemoRoutes, demoAuthenticate, demoSecret } from './demo-server.ts'
import { exit } from './exit.ts'
import { fileLog } from './file-log.ts'
import { ignoreDirectory } from './gitignore.ts'
import { listenOrSay } from './listen.ts'
import { readSettings, type Settings, storeName } from './settings.ts'
import { supervise } from './supervisor.ts'
import { createWebApp } from './web-app.ts'

/** `--serving` is the supervised child: not for people. */
export const demoCommand = defineCommand({
  meta: { name: 'demo', description: 'Starts the server with the web app, and starts it again whenever it dies.' },
  args: {
    lan: { type: 'boolean', description: 'Be reached from the local network, by a one-time link.' },
    serving: { type: 'boolean', description: 'Internal.', hidden: true },
  } as const,
  run: ({ args }) => (args.serving ? serving(args.lan === true) : demo(args.lan === true)).catch(exit),
})

const dataDirOf = ({ options }: Settings) => options.dataDir ?? '.holdfast'

/** What the supervisor tells its child by the environment, so that it is the same after each restart. */
const linkVariable = 'HOLDFAST_DEMO_LINK'
type LinkUsed = { linkUsed: true }
type Ready = { url: string; port: number; runner: boolean }

async function demo(lan: boolean): Promise<void> {
  const settings = readSettings(process.env)
  const dataDir = dataDirOf(settings)
  mkdirSync(dataDir, { recursive: true })
  ignoreDirectory(process.cwd(), dataDir)
  const token = randomBytes(16).toString('base64url')
  const environment: Record<string, string | undefined> = { ...process.env }
  if (lan) {
    environment.HOST = process.env.HOST || '0.0.0.0'
    environment[linkVariable] = `${token}.${Date.now()}`
  }
  const child = supervise({
    command: [
      process.execPath,
      ...process.execArgv,
      fileURLToPath(new URL('main.js', import.meta.url)),
      'demo',
      '--serving',
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
      if (lan) say(lanLines(ready.port, token))
    },
    onRestart: (how) => say(`the server ended (${how}), starting it again`),
  })
  process.on('SIGINT', child.stop)
  process.on('SIGTERM', child.stop)
  if (process.env.npm_lifecycle_event !== undefined) whenParentGone(child.stop)
  process.exit(await child.ended)
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
    `  realtime     server-sent events, long poll`,
    `  add to your app   npm install holdfast, then see "In code" in its README`,
    '',
  ]
}

function lanLines(port: number, token: string): string {
  const address = lanAddress() ?? hostname()
  const link = `http://${address}:${port}/demo/join/${token}`
  return `${renderUnicodeCompact(link)}\n  On a phone in this network, once, within ten minutes:\n  ${link}\n`
}

function lanAddress(): string | undefined {
  return Object.values(networkInterfaces())
    .flat()
    .find((each) => each?.family === 'IPv4' && !each.internal)?.address
}

async function serving(lan: boolean): Promise<void> {
  const settings = readSettings(process.env)
  const { options, host, port, model } = settings
  const dataDir = dataDirOf(settings)
  const secret = demoSecret(dataDir)
  const [token, madeAt] = process.env[linkVariable]?.split('.') ?? []
  const chat = createHoldfast({
    log: fileLog(dataDir),
    ...options,
    ...(lan && !options.tokens ? { authenticate: demoAuthenticate(secret) } : {}),
  })
  let url = ''
  const routes = createDemoRoutes({
    secret,
    link: token ? { token, madeAtMs: Number(madeAt) } : null,
    onLinkUsed: () => process.send?.({ linkUsed: true } satisfies LinkUsed),
    info: () => ({ model, store: storeName(options), url }),
    webApp: createWebApp(),
  })
  process.on('SIGTERM', () => {
    chat.close().then(() => process.exit(0), exit)
  })
  // Our supervisor is gone without a word: nobody would end us.
  process.on('disconnect', () => {
    chat.close().then(() => process.exit(0), exit)
  })
  url = (await listenOrSay(chat, port, host, routes)).url
  const bound = Number(new URL(url).port)
  process.send?.({ url, port: bound, runner: options.roles?.includes('runner') ?? true } satisfies Ready)
}

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}
