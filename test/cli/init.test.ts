/** What `holdfast init` writes in apps of each kind, and what it leaves alone. */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import { routeFiles } from '../../src/cli/init-app.ts'
import { plainJson } from '../../src/cli/init-tsconfig.ts'
import { writeChanges } from '../../src/cli/init-write.ts'
import { OptionError } from '../../src/index.ts'
import { endCommands, startCommand } from '../support/command.ts'
import { diffsOf, patched, quickstartOf, quickstartRoutes, readGuide } from '../use-chat/guide.ts'
import {
  added,
  type Files,
  filesOf,
  folder,
  honoManifest,
  honoServer,
  inited,
  manifest,
  refused,
  write,
} from './init-folder.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

const withAlias = (to: string) => JSON.stringify({ compilerOptions: { paths: { '@/*': [to] } } })
const nextApp: Files = {
  'package.json': manifest({ dependencies: { next: '16.0.0', ai: '^6.0.0', '@ai-sdk/openai': '^3.0.0' } }),
  'tsconfig.json': withAlias('./*'),
  'app/page.tsx': 'export default function Page() { return null }\n',
}

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
    const printed = inited()
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
    expect(inited()).not.toContain('next.config')
  })

  test('a second run says that all is there, and leaves what the app made of the files', async () => {
    await write(nextApp)
    inited()
    const lib = await readFile(join(folder, 'lib/holdfast.ts'), 'utf8')
    await write({ 'lib/holdfast.ts': lib.replace('gpt-5.1', 'another') })
    const after = await filesOf()
    for (const ask of [{}, { force: true }, { isDry: true }]) {
      const printed = inited(ask)
      expect(printed).toMatch(
        /^All is there already: lib\/holdfast\.ts, app\/api\/chat\/\[\[\.\.\.path\]\]\/route\.ts, app\/v1\/\[\.\.\.path\]\/route\.ts\. Nothing was written\.$/m,
      )
      expect(await filesOf()).toEqual(after)
    }
  })

  test('what is missing is written again, beside what is there', async () => {
    await write(nextApp)
    inited()
    const after = await filesOf()
    await rm(join(folder, 'lib'), { recursive: true })
    const printed = inited()
    expect(await filesOf()).toEqual(after)
    expect(printed).toContain('Written: lib/holdfast.ts.\nAlready there, and left as it is: app/api/chat/')
  })

  test('an app in JavaScript without an alias gets JavaScript with paths that lead there', async () => {
    await write({ 'package.json': manifest({ dependencies: { next: '16.0.0' } }), 'app/page.jsx': '' })
    inited()
    const files = await filesOf()
    for (const path of ['app/api/chat/[[...path]]/route.js', 'app/v1/[...path]/route.js']) {
      const [, from] = /from '(.*)'/.exec(files[path]!)!
      expect(join(path, '..', from!)).toBe('lib/holdfast')
    }
    expect(files['lib/holdfast.js']).not.toContain('ReplyContext')
  })

  test('a tsconfig.json that came after the first run makes no second route, nor a second definition', async () => {
    await write({ 'package.json': manifest({ dependencies: { next: '16.0.0' } }), 'app/page.jsx': '' })
    inited()
    await write({ 'tsconfig.json': withAlias('./*') })
    const after = await filesOf()
    expect(inited({ force: true })).toMatch(/^All is there already: lib\/holdfast\.js, /m)
    expect(await filesOf()).toEqual(after)
    // What is missing is in their language, and its own.
    await rm(join(folder, 'app/v1'), { recursive: true })
    inited()
    expect(Object.keys(await filesOf())).toEqual(Object.keys(after))
    // The definition alone is left of them: the new routes lead to it.
    await rm(join(folder, 'app/v1'), { recursive: true })
    await rm(join(folder, 'app/api'), { recursive: true })
    await write({ 'app/api/chat/route.ts': (await quickstartOf('ai')).get('app/api/chat/route.ts')! })
    inited({ force: true })
    const last = await filesOf()
    expect(last['lib/holdfast.js']).toBe(after['lib/holdfast.js'])
    expect(last).not.toHaveProperty(['lib/holdfast.ts'])
    expect(last).toHaveProperty(['app/api/chat/old-route.ts'])
  })

  test('an alias is one where TypeScript takes it for one: comments, commas at the end and a base are read as it does', async () => {
    const importIn = async (tsconfig: string) => {
      await write({ ...nextApp, 'tsconfig.json': tsconfig })
      const printed = inited({ isDry: true })
      return /from '(.*lib\/holdfast)'/.exec(printed)![1]
    }
    const config = (...lines: string[]) =>
      `{\n  // "of": "ours",\n  "compilerOptions": {\n    ${lines.join('\n    ')}\n  },\n}\n`
    expect(await importIn(config('"paths": { "@/*": ["./*"], }, // "all"'))).toBe('@/lib/holdfast')
    expect(await importIn(config('"baseUrl": "src/..", /* and */ "paths": { "@/*": ["*"] },'))).toBe('@/lib/holdfast')
    const written = '../../../../lib/holdfast'
    expect(await importIn(config('// "paths": { "@/*": ["./*"] },'))).toBe(written)
    expect(await importIn(config('"paths": {', '/*  "@/*": ["./*"] */', '"~/*": ["./*"]', '}'))).toBe(written)
    expect(await importIn(config('"baseUrl": "./source", "paths": { "@/*": ["./*"] }'))).toBe(written)
    expect(await importIn('{ "compilerOptions": ')).toBe(written)
  })

  test('comments and commas are taken out of JSON, and strings are kept as they are', () => {
    const text = '\uFEFF{ "a": "// \\" /* */ ,}", /* "b": [1], \n */ "c": ["./*",\n 1, ], // ,}\n }'
    expect(JSON.parse(plainJson(text))).toEqual({ a: '// " /* */ ,}', c: ['./*', 1] })
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
      inited({ force: true })
      const guide = patched(await quickstartOf('ai'), diffsOf(await readGuide()))
      const after = await filesOf()
      const onServer = ['lib/holdfast.ts', 'app/api/chat/[[...path]]/route.ts', 'app/v1/[...path]/route.ts']
      for (const path of onServer) expect([path, after[path]]).toEqual([path, guide.get(path)])
      expect(after).not.toHaveProperty(['app/api/chat/route.ts'])
      expect(after['app/page.tsx']).toBe(quickstart['app/page.tsx'])
      inited()
      expect(await filesOf()).toEqual(after)
    },
  )

  test('without a route to move, the file is the one of the guide, too', async () => {
    await write(nextApp)
    inited()
    const guide = patched(await quickstartOf('ai'), diffsOf(await readGuide()))
    expect((await filesOf())['lib/holdfast.ts']).toBe(guide.get('lib/holdfast.ts'))
  })

  test('instructions, names of its own and line ends of a route are kept as it is moved', async () => {
    const route = (await quickstartOf('ai'))
      .get('app/api/chat/route.ts')!
      .replace("('gpt-5.1'),\n", "('gpt-5.1'),\n    system: 'Be kind.',\n    stopWhen: steps(5),\n")
      .replace('convertToModelMessages }', 'convertToModelMessages, stepCountIs as steps, tool as unused }')
      .replaceAll('\n', '\r\n')
    await write({ ...nextApp, 'app/api/chat/route.ts': route })
    inited({ force: true })
    const lib = (await filesOf())['lib/holdfast.ts']!
    expect(lib).toContain("import { streamText, convertToModelMessages, stepCountIs as steps } from 'ai';\r\n")
    expect(lib).toContain("    system: 'Be kind.',\r\n    stopWhen: steps(5),\r\n")
    expect(lib.match(/(?<!\r)\n/)).toBeNull()
  })

  const wrapped =
    'The tools in lib/holdfast.ts are wrapped: a call that has its result never runs again. docs/tools.md says'
  const asTheyWere =
    'The tools in lib/holdfast.ts are as they were, and a takeover may run a call again: give the model'

  test.each(['ai', 'ai7'] as const)(
    'the tools of the quickstart of %s are wrapped, and nothing else of it changes',
    async (sdk) => {
      const routes = (await quickstartRoutes(sdk)).filter((route) => route.includes('tools: {'))
      expect(routes.length).toBeGreaterThan(1)
      for (const route of routes) {
        await rm(folder, { recursive: true })
        await write({ ...nextApp, 'app/api/chat/route.ts': route })
        expect(inited({ force: true })).toContain(wrapped)
        const lib = (await filesOf())['lib/holdfast.ts']!
        expect(lib).toContain('async function reply({ messages, signal, tools }: ReplyContext) {\n')
        const literal = /^ {4}tools: (\{\n[\s\S]*?^ {4}\}),$/m.exec(route)![1]!
        expect(lib).toContain(`    tools: tools(${literal}),\n`)
      }
    },
  )

  test.each<[string, string, string]>([
    ['are named elsewhere', '    tools,\n', 'const tools = { book: tool({}) };\n'],
    ['have a name of their own', '    tools: mine,\n', 'const mine = { book: tool({}) };\n'],
    ['are meant by another line', '    tools: { book },\n    prepareStep: () => pick(tools),\n', 'const tools = {};\n'],
    ['stand in a comment', '    /*\n    tools: { book },\n    */\n', ''],
    // `input` would have the type any: TypeScript refuses that where it is strict.
    [
      'have types by their place',
      '    tools: {\n      book: {\n        execute: async (input) => input,\n      },\n    },\n',
      '',
    ],
  ])('tools that %s are left as they are, and said', async (_, lines, before) => {
    const route = (await quickstartOf('ai'))
      .get('app/api/chat/route.ts')!
      .replace('    messages: await', () => `${lines}    messages: await`)
      .replace('export async', () => `${before}export async`)
    await write({ ...nextApp, 'app/api/chat/route.ts': route })
    expect(inited({ force: true })).toContain(asTheyWere)
    const lib = (await filesOf())['lib/holdfast.ts']!
    expect(lib).toContain(lines)
    expect(lib).toContain('reply({ messages, signal }: ReplyContext)')
  })

  test('tools in one line are wrapped, too, also where others have tools of their own', async () => {
    const route = (await quickstartOf('ai'))
      .get('app/api/chat/route.ts')!
      .replace('    messages: await', '    tools: { search: openai.tools.webSearch() },\n    messages: await')
    await write({ ...nextApp, 'app/api/chat/route.ts': route })
    expect(inited({ force: true })).toContain(wrapped)
    expect((await filesOf())['lib/holdfast.ts']).toContain('    tools: tools({ search: openai.tools.webSearch() }),\n')
  })

  test('of tools that it has not nothing is said', async () => {
    await write({ ...nextApp, 'app/api/chat/route.ts': (await quickstartOf('ai')).get('app/api/chat/route.ts')! })
    expect(inited({ force: true })).not.toMatch(/^ +The tools/m)
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
    ['imports by an alias', (route) => `import { tools } from '@/lib/tools';\n${route}`],
    ['asks for cookies', (route) => `import { cookies } from 'next/headers';\n${route}`],
    ['signs users in', (route) => `import {\n  auth,\n} from "@clerk/nextjs/server"\n${route}`],
    ['imports for a side effect', (route) => route.replace('\nexport async', "import 'server-only';\n\nexport async")],
    ['imports a name like the known', (route) => `import { auth } from 'ai-auth';\n${route}`],
    ['imports as it goes', (route) => route.replace("openai('gpt-5.1')", "(await import('@ai-sdk/groq')).groq('a')")],
    ['requires', (route) => route.replace('export async', "const { auth } = require('./auth');\n\nexport async")],
    [
      'has the line of its messages in a comment, too',
      (route) => route.replace(/^ {4}messages: .*\n/m, (line) => `${line}    /*\n${line}    */\n`),
    ],
    [
      'has the line of its messages in a comment only',
      (route) => route.replace(/^ {4}messages: .*\n/m, (line) => `    /*\n${line}    */\n    prompt: 'Hi',\n`),
    ],
    [
      'tells another call its messages',
      (route) => route.replace(/^ {4}(messages: .*\n)/m, '    system: await short({\n      $1    }),\n    prompt,\n'),
    ],
    ['has a signal of its own', (route) => route.replace('export async', 'const signal = forever();\n\nexport async')],
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
    const printed = inited({ force: true })
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
    inited({ force: true })
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
    const printed = inited()
    expect(await filesOf()).toEqual(app)
    expect(printed).toContain('All is there already: app/api/chat/[[...all]]/route.ts. Nothing was written.')
  })

  test('pages/ alone, and a route of pages/ in its place, are said with what to do', async () => {
    await write({ 'package.json': manifest({ dependencies: { next: '16.0.0' } }), 'src/pages/index.tsx': '' })
    expect(await refused()).toMatch(
      /^This Next\.js app has src\/pages\/ and no src\/app\/, .*make the folder src\/app .*\n$/,
    )
    await write({ 'src/app/layout.tsx': '', 'src/pages/api/chat.ts': '' })
    expect(await refused({ force: true })).toMatch(
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
    inited({ force: true })
    expect((await filesOf())['lib/holdfast.ts']).toContain('createHoldfast')
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
      const printed = inited({ isDry: true, force: true })
      expect(await filesOf()).toEqual(app)
      expect(printed).toContain('Nothing was written (--dry-run). It would be ')
      const copy = await mkdtemp(join(tmpdir(), 'holdfast-init-applied-'))
      onTestFinished(() => rm(copy, { recursive: true }))
      await write(app, copy)
      await write({ 'the.diff': printed }, copy)
      await run('git', ['apply', '--whitespace=nowarn', 'the.diff'], { cwd: copy })
      await rm(join(copy, 'the.diff'))
      inited({ force: true })
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
    expect(await refused({ force: true })).toMatch(new RegExp(`^${path} is a symbolic link, `))
    expect(await readdir(outside)).toEqual([])
  })

  test('a file where a folder is needed is said', async () => {
    await write({ ...nextApp, lib: '' })
    expect(await refused({ force: true })).toMatch(/^lib is not a folder, which lib\/holdfast\.ts needs: /)
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
    expect(await refused({ framework: 'nest' })).toBe('--framework: expected next, express, hono, got "nest".\n')
    expect(inited({ framework: 'express', isDry: true })).toContain('+++ b/holdfast.js')
    await write({ 'app/page.tsx': '' })
    expect(inited({ isDry: true })).toContain('+++ b/app/api/chat/[[...path]]/route.js')
  })

  test.each([
    ['package-lock.json', 'npm install holdfast'],
    ['pnpm-lock.yaml', 'pnpm add holdfast'],
    ['yarn.lock', 'yarn add holdfast'],
    ['bun.lock', 'bun add holdfast'],
    ['bun.lockb', 'bun add holdfast'],
  ])('with %s, also of the repository around, the line to install is %s', async (lock, line) => {
    const app = join(folder, 'apps', 'web')
    await write({ [lock]: '' })
    await write(nextApp, app)
    const printed = inited({ isDry: true }, app)
    expect(printed).toContain(`\n  ${line}\n`)
  })

  test('a package.json that says null where others say nothing is read as npm reads it', async () => {
    const none = { dependencies: null, devDependencies: null, scripts: null }
    await write({ 'package.json': manifest(none), 'server.js': "const app = require('express')()\n" })
    expect(inited({ framework: 'express', isDry: true })).toContain('+++ b/holdfast.js')
  })

  test('routes are named from the folder, also where that is the root of the machine', async () => {
    await write(nextApp)
    inited()
    const below = relative('/', folder)
    const routes = ['app/api/chat/[[...path]]/route.ts', 'app/v1/[...path]/route.ts']
    expect(routeFiles('/', `${below}/app`)).toEqual(routes.map((path) => `${below}/${path}`))
    expect(routeFiles(folder, 'app')).toEqual(routes)
  })

  async function copyOf(example: string): Promise<Files> {
    const isOurs = (path: string) => !/^(node_modules|dist|\.next|\.holdfast|next-env\.d\.ts)$/.test(basename(path))
    await cp(join(root, 'examples', example), folder, { recursive: true, filter: isOurs })
    return filesOf()
  }

  test.each(['express', 'hono', 'fastify', 'node-http'])('in examples/%s all is there already', async (example) => {
    const before = await copyOf(example)
    expect(inited({ force: true })).toMatch(/^All is there already: server\.ts\. Nothing was written\.\n/)
    expect(await filesOf()).toEqual(before)
  })

  test('in examples/nextjs all is there already but the route of files, which it does without', async () => {
    const before = await copyOf('nextjs')
    expect(inited()).toContain(
      '\nWritten: app/v1/[...path]/route.ts.\nAlready there, and left as it is: lib/holdfast.ts, app/api/chat/[[...path]]/route.ts.\n',
    )
    const after = await filesOf()
    expect(after).toMatchObject(before)
    expect(added(before, after)).toEqual(['app/v1/[...path]/route.ts'])
    expect(inited()).toMatch(/^All is there already: /)
  })

  test('an AI SDK that is too old is said, and one that has holdfast is not told to install it', async () => {
    await write({ ...nextApp, 'package.json': manifest({ dependencies: { next: '16', ai: '~5.0.1', holdfast: '0' } }) })
    const printed = inited({ isDry: true })
    expect(printed).toContain(
      'package.json has ai ~5.0.1, and Holdfast reads what 6 and 7 answer: upgrade the AI SDK first.',
    )
    expect(printed).not.toContain('npm install')
    expect(printed).toContain('AI_GATEWAY_API_KEY')
  })
})

describe('a server', () => {
  test('an app that makes its Holdfast in its own file has all already', async () => {
    const app = {
      'package.json': honoManifest(),
      'server.ts': `import { createHoldfast } from 'holdfast'\n${honoServer()}`,
    }
    await write(app)
    const printed = inited()
    expect(await filesOf()).toEqual(app)
    expect(printed).toContain('All is there already: server.ts. Nothing was written.')
  })

  test('so has one that is made with something else, and has mounted it', async () => {
    const app = {
      'package.json': manifest({ dependencies: { fastify: '5', holdfast: '0' } }),
      'server.ts': "import { createHoldfast } from 'holdfast'\n",
    }
    await write(app)
    const printed = inited()
    expect(printed).toBe('All is there already: server.ts. Nothing was written.\n')
  })

  test('a route of the server that answers /api/chat already is said', async () => {
    await write({ 'package.json': honoManifest(), 'server.js': `${honoServer()}app.post('/api/chat', answer)\n` })
    expect(inited({ isDry: true })).toContain(
      'server.js answers /api/chat already: that route goes, and its model call belongs into holdfast.js.',
    )
  })
})

describe('the command', () => {
  afterEach(endCommands)

  async function typed(...args: string[]): Promise<{ code: number | null; printed: string }> {
    const command = startCommand(['init', ...args], { cwd: folder })
    const code = await command.ended
    return { code, printed: command.printed() }
  }

  test('says what it would do, refuses, does it where it is told to, and ends with 1 where it did nothing that was asked', async () => {
    const app = { ...nextApp, 'app/api/chat/route.ts': (await quickstartOf('ai')).get('app/api/chat/route.ts')! }
    await write(app)
    const refusal = await typed()
    expect([refusal.code, await filesOf()]).toEqual([1, app])
    expect(refusal.printed).toMatch(/^diff --git [\s\S]*\nNothing was written\.\n$/)
    const dry = await typed('--dry-run', '--force')
    expect([dry.code, await filesOf()]).toEqual([0, app])
    expect(dry.printed).toContain('Nothing was written (--dry-run). It would be lib/holdfast.ts, ')
    const forced = await typed('--force')
    expect(forced.code).toBe(0)
    expect(forced.printed).toContain('Written: lib/holdfast.ts, ')
    expect(await filesOf()).not.toHaveProperty(['app/api/chat/route.ts'])
    expect((await typed('--framework', 'nest')).code).toBe(1)
    expect((await typed('--framework=next')).printed).toMatch(/^All is there already: /)
    expect((await typed('--forse')).code).toBe(1)
  })
})
