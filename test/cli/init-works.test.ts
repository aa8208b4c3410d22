/** That what `holdfast init` writes works: the apps are started, and the files are compiled, as their users do. */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { movedRoute } from '../../src/cli/init-moved-route.ts'
import { endCommands, startCommand } from '../support/command.ts'
import { freshDatabase } from '../support/postgres.ts'
import { quickstartRoutes } from '../use-chat/guide.ts'
import { added, filesOf, folder, honoManifest, honoServer, inited, manifest, write } from './init-folder.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

/** Both majors of Express side by side, while the tests that need neither run. */
let expresses: Promise<string>
let database: Awaited<ReturnType<typeof freshDatabase>>
beforeAll(async () => {
  expresses = installed('express4@npm:express@4', 'express5@npm:express@5')
  // It is awaited by the tests that need it, and they say why it failed.
  expresses.catch(() => undefined)
  database = await freshDatabase(18)
})
afterEach(endCommands)
afterAll(async () => {
  await database.drop()
  await rm(await expresses, { recursive: true, force: true })
})

async function installed(...packages: string[]): Promise<string> {
  const place = await mkdtemp(join(tmpdir(), 'holdfast-express-'))
  await writeFile(join(place, 'package.json'), '{"private": true}')
  await run('npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', ...packages], { cwd: place })
  return place
}

/** `name` is what the app imports, and `of` what stands for it among what is installed here. */
async function linked(name: string, of = name, below = folder): Promise<void> {
  const place = join(below, 'node_modules', name)
  await mkdir(dirname(place), { recursive: true })
  await symlink(of === 'holdfast' ? root : join(root, 'node_modules', of), place)
}
const linkedAll = (...names: string[]) => Promise.all(names.map((name) => linked(name)))

/** The lines that it says to add, added where it says. */
async function addLines(path: string, after: RegExp): Promise<void> {
  const printed = inited()
  const [, lines] = /^ {2}Add to .*:\n\n((?: {4}.*\n)+)/m.exec(printed) ?? []
  expect(printed).toContain(`Add to ${path}, before the app's own routes:`)
  const server = await readFile(join(folder, path), 'utf8')
  await write({ [path]: server.replace(after, (line) => `${line}${lines}`) })
}

let chats = 0
async function answersAt(path: string): Promise<void> {
  const id = `c${++chats}`
  const env = { DATABASE_URL: database.url, LOG_LEVEL: 'silent' }
  const server = startCommand([path], { cwd: folder, program: [process.execPath], env })
  const [url] = await server.said(/^http:\/\/\S+$/m)
  const message = { id: `m-${id}`, role: 'user', parts: [{ type: 'text', text: 'Hello there' }] }
  const asked = await fetch(`${url}/api/chat`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ id, messages: [message], trigger: 'submit-message' }),
  })
  const cookie = asked.headers.getSetCookie()[0]!.split(';')[0]!
  const told = (text: string) => [...text.matchAll(/"delta":"(.*?)"/g)].map(([, delta]) => delta).join('')
  expect(told(await asked.text())).toBe('You said: Hello there ')
  const get = (each: string) => fetch(`${url}${each}`, { headers: { cookie } })
  expect(told(await (await get(`/api/chat/${id}/stream`)).text())).toBe('You said: Hello there ')
  expect((await fetch(`${url}/api/chat/${id}/stop`, { method: 'POST', headers: { cookie } })).status).toBe(200)
  expect(await (await get(`/v1/sessions/${id}`)).json()).toMatchObject({ session: { id } })
  expect(await (await get('/own')).text()).toBe('own')
  server.signal('SIGTERM')
  await server.ended
}

const options = {
  target: 'es2023',
  module: 'nodenext',
  types: ['node'],
  strict: true,
  skipLibCheck: true,
  rootDir: 'src',
  outDir: 'dist',
}

/** What it has to say is the error. */
async function compile(changed: object = {}): Promise<void> {
  await write({
    'tsconfig.json': JSON.stringify({ compilerOptions: { ...options, ...changed }, include: ['src'] }),
  })
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  await run(process.execPath, [tsc, '-p', folder]).catch(({ stdout }) => expect(stdout).toBe(''))
}

test('in TypeScript, with and without a model, it has the types of what it uses, and is built into what runs', async () => {
  await linkedAll('holdfast', 'hono', '@hono/node-server', 'ai', '@types/node', '@ai-sdk/openai', '@ai-sdk/anthropic')
  const models = [{ ai: '6' }, { ai: '6', '@ai-sdk/openai': '3' }, { ai: '6', '@ai-sdk/anthropic': '3' }, {}]
  for (const [at, fields] of models.entries()) {
    const directory = at === models.length - 1 ? 'src' : `src/${at}`
    const server = `${directory}/server.ts`
    await write({ 'package.json': honoManifest(fields, server), 'tsconfig.json': '{}', [server]: honoServer() })
    await addLines(server, /.*new Hono\(\)\n/)
  }
  await compile()
  await answersAt('dist/server.js')
  // As Next.js and bundlers resolve.
  await compile({ module: 'esnext', moduleResolution: 'bundler', noEmit: true })
})

test.each(['ai', 'ai7'] as const)(
  'the routes of the quickstart of %s, with tools and without, have the types of what they are moved into',
  async (sdk) => {
    await linkedAll('holdfast', '@types/node', 'zod')
    await linked('ai', sdk)
    await linked('@ai-sdk/openai', sdk === 'ai' ? '@ai-sdk/openai' : 'openai7')
    const routes = await quickstartRoutes(sdk)
    expect(routes.length).toBeGreaterThan(2)
    for (const [at, route] of routes.entries()) {
      await write({ [`src/${at}.ts`]: movedRoute(route, { isTyped: true, isModule: true })! })
    }
    await compile({ module: 'esnext', moduleResolution: 'bundler', noEmit: true })
  },
)

test('Hono: with the lines that it prints useChat is answered, and the app still is', async () => {
  await write({ 'package.json': honoManifest(), 'src/server.js': honoServer() })
  await linkedAll('holdfast', 'hono', '@hono/node-server')
  await addLines('src/server.js', /.*new Hono\(\)\n/)
  await answersAt('src/server.js')
  expect(inited()).toMatch(/^All is there already: src\/holdfast\.js\./)
})

const listening = (module: string) =>
  `const server = ${module}.createServer(app).listen(0, '127.0.0.1', () => console.log(\`http://127.0.0.1:\${server.address().port}\`))\n`
const expressApps: [version: string, path: string, server: string, type: string][] = [
  [
    '5',
    'server.js',
    `import http from 'node:http'\nimport express from 'express'\nconst app = express()\napp.use(express.json())\napp.get('/own', (req, res) => res.send('own'))\n${listening('http')}`,
    'module',
  ],
  [
    '4',
    'src/index.js',
    `const http = require('node:http')\nconst express = require('express')\nconst api = express()\napi.use(express.json())\napi.get('/own', (req, res) => res.send('own'))\n${listening('http').replace('(app)', '(api)')}`,
    'commonjs',
  ],
  [
    '5',
    'app.mjs',
    `import http from 'node:http'\nimport express from 'express'\nconst app = express()\napp.get('/own', (req, res) => res.send('own'))\n${listening('http')}`,
    'commonjs',
  ],
  [
    '5',
    'main.cjs',
    `const http = require('node:http')\nconst express = require('express')\nconst app = express()\napp.get('/own', (req, res) => res.send('own'))\n${listening('http')}`,
    'module',
  ],
]
test.each(expressApps)(
  'Express %s, %s: with the lines that it prints useChat is answered, and the app still is',
  async (version, path, server, type) => {
    await write({ 'package.json': manifest({ type, dependencies: { express: version } }), [path]: server })
    await linked('holdfast')
    await symlink(join(await expresses, `node_modules/express${version}`), join(folder, 'node_modules/express'))
    const before = await filesOf()
    await addLines(path, /.*= express\(\)\n/)
    const after = await filesOf()
    expect(added(before, after)).toEqual([path.replace(/\w+(?=\.\w+$)/, 'holdfast')])
    await answersAt(path)
    const printed = inited()
    expect(await filesOf()).toEqual(after)
    expect(printed).toMatch(/^All is there already: .*holdfast/)
    expect(printed).not.toContain('Add to')
  },
  120_000,
)
