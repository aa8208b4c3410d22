/** `holdfast init` in apps of each kind: what it writes, what it leaves alone, and that what it writes works. */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { writeChanges } from '../../src/cli/init-write.ts'
import { OptionError } from '../../src/index.ts'
import { endCommands, startCommand } from '../support/command.ts'
import { freshDatabase } from '../support/postgres.ts'
import { diffsOf, patched, quickstartOf, readGuide } from '../use-chat/guide.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))
type Files = Record<string, string>

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-init-'))
})
afterEach(async () => {
  await endCommands()
  await rm(folder, { recursive: true, force: true })
})

async function write(files: Files, into = folder): Promise<void> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(into, path)), { recursive: true })
    await writeFile(join(into, path), text)
  }
}

/** Every file of the folder but what is installed. */
async function filesOf(directory = folder): Promise<Files> {
  const entries = await readdir(directory, { withFileTypes: true, recursive: true })
  const paths = entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1))
    .filter((path) => !/^(node_modules|\.git)\//.test(path))
  const read = async (path: string) => [path, await readFile(join(directory, path), 'utf8')] as const
  return Object.fromEntries(await Promise.all(paths.sort().map(read)))
}

async function init(...args: string[]): Promise<{ code: number | null; printed: string }> {
  const command = startCommand(['init', ...args], { cwd: folder })
  const code = await command.ended
  return { code, printed: command.printed() }
}

/** A refusal changes nothing, whatever it is about. */
async function refused(...args: string[]): Promise<string> {
  const before = await filesOf()
  const { code, printed } = await init(...args)
  expect(code).toBe(1)
  expect(await filesOf()).toEqual(before)
  return printed
}

const manifest = (fields: object) => `${JSON.stringify(fields)}\n`
const withAlias = (to: string) => JSON.stringify({ compilerOptions: { paths: { '@/*': [to] } } })
const nextApp: Files = {
  'package.json': manifest({ dependencies: { next: '16.0.0', ai: '^6.0.0', '@ai-sdk/openai': '^3.0.0' } }),
  'tsconfig.json': withAlias('./*'),
  'app/page.tsx': 'export default function Page() { return null }\n',
}
const added = (before: Files, after: Files) => Object.keys(after).filter((path) => !(path in before))

describe('Next.js', () => {
  test('the three files that it names are written below src/, in TypeScript, and nothing else is changed', async () => {
    const app = {
      'package.json': manifest({ dependencies: { next: '16.0.0' } }),
      'tsconfig.json': withAlias('./src/*'),
      'src/app/page.tsx': '',
      'pnpm-lock.yaml': '',
      '.gitignore': 'node_modules\n',
    }
    await write(app)
    const { code, printed } = await init()
    expect(code).toBe(0)
    const after = await filesOf()
    expect(after).toMatchObject(app)
    const paths = ['src/app/api/chat/[[...path]]/route.ts', 'src/app/v1/[...path]/route.ts', 'src/lib/holdfast.ts']
    expect(added(app, after)).toEqual(paths)
    expect(after[paths[0]!]).toBe(
      "import { chat } from '@/lib/holdfast';\nexport const { GET, POST } = chat.handlers;\n",
    )
    for (const path of paths) expect(printed).toContain(`--- /dev/null\n+++ b/${path}\n@@ -0,0 +1,`)
    expect(printed).toMatch(/^ {2}pnpm add holdfast$/m)
    expect(printed).toContain('useChat({ id, resume: true })')
    expect(printed).toContain('add that to .gitignore')
    expect(printed).toContain(
      "in next.config.ts, so that Next.js loads Holdfast as it is instead of bundling it:\n\n    serverExternalPackages: ['holdfast'],\n",
    )
    await write({ 'next.config.mjs': "export default { serverExternalPackages: ['holdfast'] }\n" })
    expect((await init()).printed).not.toContain('next.config')
  })

  test('a second run says that all is there, and leaves what the app made of the files', async () => {
    await write(nextApp)
    await init()
    const lib = await readFile(join(folder, 'lib/holdfast.ts'), 'utf8')
    await write({ 'lib/holdfast.ts': lib.replace('gpt-5.1', 'another') })
    const after = await filesOf()
    for (const args of [[], ['--force'], ['--dry-run']]) {
      const { code, printed } = await init(...args)
      expect(code).toBe(0)
      expect(printed).toMatch(
        /^All is there already: lib\/holdfast\.ts, app\/api\/chat\/\[\[\.\.\.path\]\]\/route\.ts, app\/v1\/\[\.\.\.path\]\/route\.ts\. Nothing was written\.$/m,
      )
      expect(await filesOf()).toEqual(after)
    }
  })

  test('what is missing is written again, beside what is there', async () => {
    await write(nextApp)
    await init()
    const after = await filesOf()
    await rm(join(folder, 'lib'), { recursive: true })
    const { code, printed } = await init()
    expect([code, await filesOf()]).toEqual([0, after])
    expect(printed).toContain('Written: lib/holdfast.ts.\nAlready there, and left as it is: app/api/chat/')
  })

  test('an app in JavaScript without an alias gets JavaScript with paths that lead there', async () => {
    await write({ 'package.json': manifest({ dependencies: { next: '16.0.0' } }), 'app/page.jsx': '' })
    expect((await init()).code).toBe(0)
    const files = await filesOf()
    for (const path of ['app/api/chat/[[...path]]/route.js', 'app/v1/[...path]/route.js']) {
      const [, from] = /from '(.*)'/.exec(files[path]!)!
      expect(join(path, '..', from!)).toBe('lib/holdfast')
    }
    expect(files['lib/holdfast.js']).not.toContain('ReplyContext')
  })

  test.each(['ai', 'ai7'] as const)(
    'the quickstart of %s is left alone, and with --force is what the guide makes of it',
    async (sdk) => {
      const quickstart = Object.fromEntries(await quickstartOf(sdk))
      await write({ ...nextApp, ...quickstart })
      const printed = await refused()
      expect(printed).toContain('--- a/app/api/chat/route.ts\n+++ b/lib/holdfast.ts\n')
      expect(printed).toContain(
        'app/api/chat/route.ts answers /api/chat already. With --force it is moved to lib/holdfast.ts, where its model call writes the replies.\nNothing was written.\n',
      )
      expect((await init('--force')).code).toBe(0)
      const guide = patched(await quickstartOf('ai'), diffsOf(await readGuide()))
      const after = await filesOf()
      const onServer = ['lib/holdfast.ts', 'app/api/chat/[[...path]]/route.ts', 'app/v1/[...path]/route.ts']
      for (const path of onServer) expect([path, after[path]]).toEqual([path, guide.get(path)])
      expect(after).not.toHaveProperty(['app/api/chat/route.ts'])
      expect(after['app/page.tsx']).toBe(quickstart['app/page.tsx'])
      expect((await init()).code).toBe(0)
      expect(await filesOf()).toEqual(after)
    },
  )

  test('without a route to move, the file is the one of the guide, too', async () => {
    await write(nextApp)
    await init()
    const guide = patched(await quickstartOf('ai'), diffsOf(await readGuide()))
    expect((await filesOf())['lib/holdfast.ts']).toBe(guide.get('lib/holdfast.ts'))
  })

  test('tools, instructions and line ends of a route are kept as it is moved', async () => {
    const route = (await quickstartOf('ai'))
      .get('app/api/chat/route.ts')!
      .replace("('gpt-5.1'),\n", "('gpt-5.1'),\n    system: 'Be kind.',\n    tools: {\n      a: tool({}),\n    },\n")
      .replace('convertToModelMessages }', 'convertToModelMessages, tool }')
      .replaceAll('\n', '\r\n')
    await write({ ...nextApp, 'app/api/chat/route.ts': route })
    await init('--force')
    const lib = (await filesOf())['lib/holdfast.ts']!
    expect(lib).toContain("import { streamText, convertToModelMessages, tool } from 'ai';\r\n")
    expect(lib).toContain("    system: 'Be kind.',\r\n    tools: {\r\n      a: tool({}),\r\n    },\r\n")
    expect(lib.match(/(?<!\r)\n/)).toBeNull()
  })

  test.each<[string, (route: string) => string]>([
    ['asks who it is', (route) => route.replace('  const result', '  await auth();\n  const result')],
    ['uses the request', (route) => route.replace("'gpt-5.1'", 'req.headers.get("model")')],
    [
      'reads more of the body',
      (route) => route.replace('{ messages }: { messages: UIMessage[] }', '{ messages, model }'),
    ],
    ['stores messages', (route) => route.replace('Response()', 'Response({ onFinish: save })')],
    ['consumes the stream', (route) => route.replace('  return', '  result.consumeStream();\n  return')],
    [
      'does more after the call',
      (route) => route.replace('  return', '  await save({\n    messages,\n  });\n\n  return'),
    ],
    ['sets its own retries', (route) => route.replace('messages: await', 'maxRetries: 5,\n    messages: await')],
    ['imports what is beside it', (route) => `import { system } from './system';\n${route}`],
    ['exports something else', (route) => `${route}export const maxDuration = 30;\n`],
    [
      'is written in another way',
      (route) => route.replace('async function POST(req: Request)', 'const POST = async (req: Request) =>'),
    ],
  ])('a route that %s is never half translated: it is set aside whole, and said', async (_, changed) => {
    const original = (await quickstartOf('ai')).get('app/api/chat/route.ts')!
    const route = changed(original)
    expect(route).not.toBe(original)
    await write({ ...nextApp, 'app/api/chat/route.ts': route })
    expect(await refused()).toContain(
      'With --force it is set aside as app/api/chat/old-route.ts, which Next.js does not serve.',
    )
    const { code, printed } = await init('--force')
    expect(code).toBe(0)
    expect(printed).toContain(
      'Take over what is needed of app/api/chat/old-route.ts, such as its model call, and delete it.',
    )
    const after = await filesOf()
    expect(after['app/api/chat/old-route.ts']).toBe(route)
    expect(after).not.toHaveProperty(['app/api/chat/route.ts'])
    expect(after['lib/holdfast.ts']).toContain("model: openai('gpt-5.1'),")
  })

  test('routes that would answer in its place are found wherever they are: in a group, and those that resumed a stream', async () => {
    const own = 'export const GET = () => new Response();\n'
    const routes = {
      'app/(chat)/api/chat/route.ts': own,
      'app/(chat)/api/chat/[id]/stream/route.ts': own,
      'app/api/chats/route.ts': own,
      'app/v1/users/route.ts': own,
    }
    await write({ ...nextApp, ...routes })
    const printed = await refused()
    expect(printed.match(/^app\/.* answers .* already/gm)).toEqual([
      'app/(chat)/api/chat/[id]/stream/route.ts answers /api/chat/[id]/stream already',
      'app/(chat)/api/chat/route.ts answers /api/chat already',
    ])
    await init('--force')
    const after = await filesOf()
    expect(after).toMatchObject({
      'app/(chat)/api/chat/old-route.ts': own,
      'app/(chat)/api/chat/[id]/stream/old-route.ts': own,
      'app/api/chats/route.ts': own,
      'app/v1/users/route.ts': own,
    })
  })

  test('an app that has mounted it by hand, under names of its own, has all already', async () => {
    const app = {
      ...nextApp,
      'app/api/chat/[[...all]]/route.ts':
        "import { chat } from '@/lib/chat'\nexport const { GET, POST } = chat.handlers\n",
    }
    await write(app)
    const { code, printed } = await init()
    expect([code, await filesOf()]).toEqual([0, app])
    expect(printed).toContain('All is there already: app/api/chat/[[...all]]/route.ts. Nothing was written.')
  })

  test('pages/ alone, and a route of pages/ in its place, are said with what to do', async () => {
    await write({ 'package.json': manifest({ dependencies: { next: '16.0.0' } }), 'src/pages/index.tsx': '' })
    expect(await refused()).toMatch(
      /^This Next\.js app has src\/pages\/ and no src\/app\/, .*make the folder src\/app .*\n$/,
    )
    await write({ 'src/app/layout.tsx': '', 'src/pages/api/chat.ts': '' })
    expect(await refused('--force')).toMatch(
      /^src\/pages\/api\/chat\.ts answers \/api\/chat, also where Holdfast's route is there: move it away/,
    )
  })
})

describe('what is in the way', () => {
  test('a file that is something else is never overwritten without --force, and then nothing at all is written', async () => {
    await write({ ...nextApp, 'lib/holdfast.ts': 'export const other = 1;\n' })
    const printed = await refused()
    expect(printed).toContain('--- a/lib/holdfast.ts\n+++ b/lib/holdfast.ts\n')
    expect(printed).toContain('-export const other = 1;\n')
    expect(printed).toMatch(
      /^lib\/holdfast\.ts is there and is something else\. With --force it is overwritten\.\nNothing was written\.$/m,
    )
    const { code } = await init('--force')
    expect([code, (await filesOf())['lib/holdfast.ts']]).toEqual([0, expect.stringContaining('createHoldfast')])
  })

  test('--dry-run writes nothing, and what it prints is what git makes the same files of', async () => {
    const route = (await quickstartOf('ai7')).get('app/api/chat/route.ts')!
    const apps: Files[] = [
      nextApp,
      { ...nextApp, 'app/api/chat/route.ts': route },
      { ...nextApp, 'app/api/chat/route.ts': `${route}// more` },
      { ...nextApp, 'app/api/chat/route.ts': route, 'lib/holdfast.ts': 'without an end' },
    ]
    for (const app of apps) {
      await rm(folder, { recursive: true })
      await write(app)
      const { code, printed } = await init('--dry-run', '--force')
      expect([code, await filesOf()]).toEqual([0, app])
      expect(printed).toContain('Nothing was written (--dry-run). It would be ')
      const copy = await mkdtemp(join(tmpdir(), 'holdfast-init-applied-'))
      onTestFinished(() => rm(copy, { recursive: true }))
      await write(app, copy)
      await write({ 'the.diff': printed }, copy)
      await run('git', ['apply', '--whitespace=nowarn', 'the.diff'], { cwd: copy })
      await rm(join(copy, 'the.diff'))
      expect((await init('--force')).code).toBe(0)
      expect(await filesOf(copy)).toEqual(await filesOf())
    }
  })

  test.each(['lib', 'app/api', 'app', 'lib/holdfast.ts'])('nothing is written through a link: %s', async (path) => {
    const outside = await mkdtemp(join(tmpdir(), 'holdfast-outside-'))
    onTestFinished(() => rm(outside, { recursive: true }))
    await write(nextApp)
    await rm(join(folder, path), { recursive: true, force: true })
    await mkdir(dirname(join(folder, path)), { recursive: true })
    await symlink(path.endsWith('.ts') ? join(outside, 'file.ts') : outside, join(folder, path))
    expect(await refused('--force')).toMatch(new RegExp(`^${path} is a symbolic link, `))
    expect(await readdir(outside)).toEqual([])
  })

  test('a file where a folder is needed is said', async () => {
    await write({ ...nextApp, lib: '' })
    expect(await refused('--force')).toMatch(/^lib is not a folder, which lib\/holdfast\.ts needs: /)
  })

  test('where one file cannot be written, those before it are taken back', async () => {
    const before = { 'kept.ts': 'as it was\n', 'moved.ts': 'moved\n' }
    await write(before)
    const change = (from: string | null, to: string) => ({
      from,
      before: from === null ? '' : before[from as 'kept.ts'],
      to,
      after: 'new\n',
    })
    const changes = [
      change(null, 'lib/deep/a.ts'),
      change('kept.ts', 'kept.ts'),
      change('moved.ts', 'lib/b.ts'),
      change(null, `${'x'.repeat(300)}.ts`),
    ]
    expect(() => writeChanges(folder, changes)).toThrow(OptionError)
    expect(() => writeChanges(folder, changes)).toThrow(/cannot be written \(ENAMETOOLONG\): nothing was changed/)
    expect(await filesOf()).toEqual(before)
    expect(existsSync(join(folder, 'lib'))).toBe(false)
  })
})

describe('what is found', () => {
  const without = 'Next.js (next), Express (express), Hono on Node (hono and @hono/node-server)'
  test.each<[string, Files, string]>([
    [
      'no package.json',
      {},
      "There is no package.json here: run holdfast init in your app's folder. For a chat without an app there is holdfast demo.",
    ],
    [
      'one that is not JSON',
      { 'package.json': '{' },
      'package.json is not the JSON that npm expects: mend it, and run holdfast init again.',
    ],
    [
      'one of another shape',
      { 'package.json': '{"dependencies": ["next"]}' },
      'package.json is not the JSON that npm expects: mend it, and run holdfast init again.',
    ],
    [
      'none of them',
      { 'package.json': manifest({ dependencies: { fastify: '5' } }) },
      `package.json names none of ${without}: say which with --framework next|express|hono, or mount chat.node or chat.fetch by hand, as the README says.`,
    ],
    [
      'Hono without Node',
      { 'package.json': manifest({ dependencies: { hono: '4' } }) },
      `package.json names none of ${without}: say which with --framework next|express|hono, or mount chat.node or chat.fetch by hand, as the README says.`,
    ],
    [
      'the root of a monorepo',
      { 'package.json': manifest({ workspaces: ['apps/*'] }) },
      `This is the root of a monorepo, and its package.json names none of ${without}: run holdfast init in the folder of the app.`,
    ],
    [
      'the root of one of pnpm',
      { 'package.json': '{}', 'pnpm-workspace.yaml': '' },
      `This is the root of a monorepo, and its package.json names none of ${without}: run holdfast init in the folder of the app.`,
    ],
    [
      'an Expo app',
      { 'package.json': manifest({ dependencies: { expo: '54' } }) },
      "This is an Expo app, and Holdfast runs on its server: run holdfast init in the server's folder. For the app itself see docs/ai-sdk.md, React Native.",
    ],
    [
      'several',
      { 'package.json': manifest({ dependencies: { next: '16', express: '5' } }) },
      'package.json has Next.js and Express: say which with --framework next|express|hono.',
    ],
    [
      'Next.js without its folder',
      { 'package.json': manifest({ dependencies: { next: '16' } }) },
      'There is no app/ and no src/app/ here: run holdfast init in the folder of the Next.js app.',
    ],
  ])('with %s one sentence says what to do, and nothing is written', async (_, files, sentence) => {
    await write(files)
    expect(await refused()).toBe(`${sentence}\n`)
  })

  test('of several, the one whose files are there, or the one that is asked for', async () => {
    const both = { 'package.json': manifest({ dependencies: { next: '16', express: '5' } }) }
    await write({ ...both, 'server.js': "const app = require('express')()\n" })
    expect(await refused('--framework', 'nest')).toBe('--framework: expected next, express, hono, got "nest".\n')
    expect((await init('--framework=express', '--dry-run')).printed).toContain('+++ b/holdfast.js')
    await write({ 'app/page.tsx': '' })
    expect((await init('--dry-run')).printed).toContain('+++ b/app/api/chat/[[...path]]/route.js')
  })

  test.each([
    ['package-lock.json', 'npm install holdfast'],
    ['pnpm-lock.yaml', 'pnpm add holdfast'],
    ['yarn.lock', 'yarn add holdfast'],
    ['bun.lock', 'bun add holdfast'],
    ['bun.lockb', 'bun add holdfast'],
  ])('with %s, also of the repository around, the line to install is %s', async (lock, line) => {
    await write({ [lock]: '' })
    folder = join(folder, 'apps', 'web')
    await write(nextApp)
    const { printed } = await init('--dry-run')
    folder = dirname(dirname(folder))
    expect(printed).toContain(`\n  ${line}\n`)
  })

  test('an AI SDK that is too old is said, and one that has holdfast is not told to install it', async () => {
    await write({ ...nextApp, 'package.json': manifest({ dependencies: { next: '16', ai: '~5.0.1', holdfast: '0' } }) })
    const { printed } = await init('--dry-run')
    expect(printed).toContain(
      'package.json has ai ~5.0.1, and Holdfast reads what 6 and 7 answer: upgrade the AI SDK first.',
    )
    expect(printed).not.toContain('npm install')
    expect(printed).toContain('AI_GATEWAY_API_KEY')
  })
})

/** Where a major of Express is installed, once. */
const installed = new Map<string, Promise<string>>()
function expressOf(version: string): Promise<string> {
  const install = async () => {
    const place = await mkdtemp(join(tmpdir(), 'holdfast-express-'))
    await writeFile(join(place, 'package.json'), '{"private": true}')
    await run('npm', ['install', '--no-audit', '--no-fund', `express@${version}`], { cwd: place })
    return place
  }
  if (!installed.has(version)) installed.set(version, install())
  return installed.get(version)!
}
afterAll(async () => {
  for (const place of installed.values()) await rm(await place, { recursive: true, force: true })
})

const linked = async (...names: string[]) => {
  for (const name of names) {
    const place = join(folder, 'node_modules', name)
    await mkdir(dirname(place), { recursive: true })
    await symlink(name === 'holdfast' ? root : join(root, 'node_modules', name), place)
  }
}

describe('what is written works', () => {
  /** The lines that it says to add, added where it says. */
  async function addLines(path: string, after: RegExp): Promise<string> {
    const { code, printed } = await init()
    expect(code).toBe(0)
    const [, lines] = /^ {2}Add to .*:\n\n((?: {4}.*\n)+)/m.exec(printed) ?? []
    expect(printed).toContain(`Add to ${path}, before the app's own routes:`)
    const server = await readFile(join(folder, path), 'utf8')
    await write({ [path]: server.replace(after, (line) => `${line}${lines}`) })
    return printed
  }

  async function answersAt(path: string): Promise<void> {
    const database = await freshDatabase(18)
    onTestFinished(() => database.drop())
    const env = { DATABASE_URL: database.url, LOG_LEVEL: 'silent' }
    const server = startCommand([path], { cwd: folder, program: [process.execPath], env })
    const [url] = await server.said(/^http:\/\/\S+$/m)
    const message = { id: 'm1', role: 'user', parts: [{ type: 'text', text: 'Hello there' }] }
    const asked = await fetch(`${url}/api/chat`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ id: 'c1', messages: [message], trigger: 'submit-message' }),
    })
    const cookie = asked.headers.getSetCookie()[0]!.split(';')[0]!
    const told = (text: string) => [...text.matchAll(/"delta":"(.*?)"/g)].map(([, delta]) => delta).join('')
    expect(told(await asked.text())).toBe('You said: Hello there ')
    const get = (each: string) => fetch(`${url}${each}`, { headers: { cookie } })
    expect(told(await (await get('/api/chat/c1/stream')).text())).toBe('You said: Hello there ')
    expect((await fetch(`${url}/api/chat/c1/stop`, { method: 'POST', headers: { cookie } })).status).toBe(200)
    expect(await (await get('/v1/sessions/c1')).json()).toMatchObject({ session: { id: 'c1' } })
    expect(await (await get('/own')).text()).toBe('own')
    server.signal('SIGTERM')
    await server.ended
  }

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
      await symlink(join(await expressOf(version), 'node_modules/express'), join(folder, 'node_modules/express'))
      const before = await filesOf()
      await addLines(path, /.*= express\(\)\n/)
      const after = await filesOf()
      expect(added(before, after)).toEqual([path.replace(/\w+(?=\.\w+$)/, 'holdfast')])
      await answersAt(path)
      const { code, printed } = await init()
      expect([code, await filesOf()]).toEqual([0, after])
      expect(printed).toMatch(/^All is there already: .*holdfast/)
      expect(printed).not.toContain('Add to')
    },
    120_000,
  )

  const honoServer = (types: string) => `import { serve } from '@hono/node-server'
import { Hono } from 'hono'

const app = new Hono()
app.get('/own', (context) => context.text('own'))
serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }${types}) => console.log(\`http://127.0.0.1:\${port}\`))
`
  const honoManifest = (fields: object = {}) =>
    manifest({ type: 'module', dependencies: { hono: '4', '@hono/node-server': '2', ...fields } })

  test('Hono: with the lines that it prints useChat is answered, and the app still is', async () => {
    await write({ 'package.json': honoManifest(), 'src/server.js': honoServer('') })
    await linked('holdfast', 'hono', '@hono/node-server')
    await addLines('src/server.js', /.*new Hono\(\)\n/)
    await answersAt('src/server.js')
    expect((await init()).printed).toMatch(/^All is there already: src\/holdfast\.js\./)
  })

  test('in TypeScript, with and without a model, it has the types of what it uses, and is built into what runs', async () => {
    await linked('holdfast', 'hono', '@hono/node-server', 'ai', '@types/node', '@ai-sdk/openai', '@ai-sdk/anthropic')
    const options = {
      target: 'es2023',
      module: 'nodenext',
      types: ['node'],
      strict: true,
      skipLibCheck: true,
      rootDir: 'src',
      outDir: 'dist',
    }
    const tsconfig = JSON.stringify({ compilerOptions: options, include: ['src'] })
    const tsc = () => run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', folder])
    const models = [{ ai: '6' }, { ai: '6', '@ai-sdk/openai': '3' }, { ai: '6', '@ai-sdk/anthropic': '3' }, {}]
    for (const fields of models) {
      await rm(join(folder, 'src'), { recursive: true, force: true })
      await write({ 'package.json': honoManifest(fields), 'tsconfig.json': tsconfig, 'src/server.ts': honoServer('') })
      await addLines('src/server.ts', /.*new Hono\(\)\n/)
      await tsc().catch(({ stdout }) => expect([fields, stdout]).toEqual([fields, '']))
    }
    await answersAt('dist/server.js')
    // As Next.js and bundlers resolve.
    await write({
      'tsconfig.json': JSON.stringify({
        compilerOptions: { ...options, module: 'esnext', moduleResolution: 'bundler' },
        include: ['src'],
      }),
    })
    await tsc().catch(({ stdout }) => expect(stdout).toBe(''))
  })

  test('an app that makes its Holdfast in its own file has all already', async () => {
    const app = {
      'package.json': honoManifest(),
      'server.ts': `import { createHoldfast } from 'holdfast'\n${honoServer('')}`,
    }
    await write(app)
    const { code, printed } = await init()
    expect([code, await filesOf()]).toEqual([0, app])
    expect(printed).toContain('All is there already: server.ts. Nothing was written.')
  })

  test('so has one that is made with something else, and has mounted it', async () => {
    const app = {
      'package.json': manifest({ dependencies: { fastify: '5', holdfast: '0' } }),
      'server.ts': "import { createHoldfast } from 'holdfast'\n",
    }
    await write(app)
    const { code, printed } = await init()
    expect([code, printed]).toEqual([0, 'All is there already: server.ts. Nothing was written.\n'])
  })

  test('a route of the server that answers /api/chat already is said', async () => {
    await write({ 'package.json': honoManifest(), 'server.js': `${honoServer('')}app.post('/api/chat', answer)\n` })
    expect((await init('--dry-run')).printed).toContain(
      'server.js answers /api/chat already: that route goes, and its model call belongs into holdfast.js.',
    )
  })
})
