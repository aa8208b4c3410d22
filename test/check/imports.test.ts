/** Which layer may import which (DESIGN §7). Type imports count: a type is a dependency, too. */

import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import manifest from '../../package.json' with { type: 'json' }

const src = fileURLToPath(new URL('../../src/', import.meta.url))

/** By layer, the others that it may import. A layer is a directory of src; the files beside them are `wire`. */
const allowed: Record<string, readonly string[]> = {
  core: [],
  store: ['core'],
  log: ['store', 'core'],
  reply: ['store', 'core'],
  runner: ['usage', 'reply', 'log', 'store', 'core'],
  people: ['log', 'store', 'core'],
  push: ['store', 'core'],
  net: [],
  usage: ['log', 'store', 'core'],
  outbox: ['net', 'log', 'store', 'core'],
  transfer: ['log', 'store', 'core'],
  http: ['usage', 'outbox', 'transfer', 'people', 'log', 'store', 'core'],
  adapters: ['net', 'reply', 'core'],
  ably: ['log', 'core'],
  client: ['core'],
  'ai-sdk': ['client', 'core'],
  'ably-client': ['client', 'core'],
  'tanstack-query': ['client', 'core'],
  react: ['tanstack-query', 'client', 'core'],
  cli: [
    'wire',
    'usage',
    'outbox',
    'transfer',
    'adapters',
    'push',
    'http',
    'people',
    'runner',
    'reply',
    'log',
    'store',
    'core',
  ],
  testing: ['wire', 'reply', 'store', 'core'],
  wire: [
    'ably',
    'adapters',
    'http',
    'outbox',
    'transfer',
    'people',
    'push',
    'usage',
    'runner',
    'reply',
    'log',
    'store',
    'core',
  ],
}
/**
 * The only packages that these layers may import: six run where the app's page runs, and `testing` in whatever test runner
 * the app has.
 */
const packages: Record<string, readonly string[]> = {
  core: [],
  client: ['eventsource-parser'],
  'ai-sdk': ['ai', 'eventsource-parser'],
  'ably-client': [],
  'tanstack-query': [],
  react: ['react'],
  testing: ['jose', ...builtinModules.map((name) => `node:${name}`)],
}
/** The kill points, empty in the package: imported as `#points`, so that tests can put the real ones in their place. */
const pointsFile = 'points.ts'
/** What package.json exports: only there may names be passed on from elsewhere. */
const publicFiles = Object.values<string>(manifest.exports).map((file) =>
  file.replace(/^\.\/dist\//, '').replace(/\.js$/, '.ts'),
)

type Import = { from: string; specifier: string; isReExport: boolean }
type Sources = ReadonlyMap<string, string>

function sourcesOfRepository(): Sources {
  const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
  return new Map(files.map((file) => [file.replaceAll('\\', '/'), readFileSync(join(src, file), 'utf8')]))
}

/** Statements begin a line, as the formatter writes them; `import('…')` may stand anywhere. */
function importsOf(from: string, source: string): Import[] {
  const statements = source.matchAll(/^(import|export)\b(?:[^'"`;=]*?\bfrom)?\s*'([^'\n]+)'/gm)
  const calls = source.matchAll(/\bimport\(\s*'([^'\n]+)'/g)
  return [
    ...[...statements].map(([, word, specifier]) => ({ from, specifier: specifier!, isReExport: word === 'export' })),
    ...[...calls].map(([, specifier]) => ({ from, specifier: specifier!, isReExport: false })),
  ]
}

function layerOf(file: string): string {
  return file.includes('/') ? file.slice(0, file.indexOf('/')) : 'wire'
}

/** The file of src that is imported, or null for a package. */
function targetOf({ from, specifier }: Import): string | null {
  if (!specifier.startsWith('.')) return null
  return relative('/', join('/', dirname(from), specifier)).replaceAll('\\', '/')
}

function problemsOf(sources: Sources): string[] {
  const imports = [...sources].flatMap(([file, source]) => importsOf(file, source))
  return [...imports.flatMap((each) => problemOf(each, sources)), ...cyclesOf(imports)]
}

function problemOf(each: Import, sources: Sources): string[] {
  const { from, specifier, isReExport } = each
  const layer = layerOf(from)
  const target = targetOf(each)
  if (isReExport && !publicFiles.includes(from)) return [`${from} re-exports ${specifier}: only public index files do`]
  if (!(layer in allowed)) return [`${from} is in no known layer`]
  if (specifier === '#points') return layer in packages ? [`${from} imports #points`] : []
  if (target === null) {
    const isAllowed = packages[layer]?.includes(specifier) ?? true
    return isAllowed ? [] : [`${from} imports ${specifier}: ${layer} imports no such package`]
  }
  if (!sources.has(target)) return [`${from} imports ${specifier}, which is no file of src`]
  const to = layerOf(target)
  if (target === pointsFile) return [`${from} imports ${specifier}: kill points are imported as #points`]
  return to === layer || allowed[layer]!.includes(to) ? [] : [`${from} (${layer}) imports ${target} (${to})`]
}

function cyclesOf(imports: Import[]): string[] {
  const targets = new Map<string, string[]>()
  for (const each of imports) {
    const target = targetOf(each)
    if (target !== null) targets.set(each.from, [...(targets.get(each.from) ?? []), target])
  }
  const cycles: string[] = []
  const done = new Set<string>()
  const visit = (file: string, path: string[]): void => {
    if (path.includes(file)) {
      cycles.push(`a cycle: ${[...path.slice(path.indexOf(file)), file].join(' → ')}`)
      return
    }
    if (done.has(file)) return
    for (const target of targets.get(file) ?? []) visit(target, [...path, file])
    done.add(file)
  }
  for (const file of targets.keys()) visit(file, [])
  return cycles
}

test('every import of src goes in a direction of DESIGN §7, without cycles, and only public files re-export', () => {
  const sources = sourcesOfRepository()
  expect(problemsOf(sources)).toEqual([])
  // The parser saw what is there: a vacuous check would pass, too.
  const seen = [...sources].flatMap(([file, source]) => importsOf(file, source))
  expect(seen.length).toBeGreaterThan(sources.size)
  expect(seen).toContainEqual({ from: 'engine.ts', specifier: './store/embedded.ts', isReExport: false })
  expect(seen).toContainEqual({ from: 'index.ts', specifier: './reply/reply.ts', isReExport: true })
})

test('the web app imports of Holdfast what anybody can: its public entries, and none of its files', () => {
  const web = fileURLToPath(new URL('../../web/src/', import.meta.url))
  const files = readdirSync(web).filter((file) => /\.tsx?$/.test(file))
  const imports = files.flatMap((file) => importsOf(file, readFileSync(join(web, file), 'utf8')))
  const others = imports.filter(({ specifier }) => !specifier.startsWith('./')).map(({ specifier }) => specifier)
  expect(others.filter((specifier) => specifier.startsWith('.'))).toEqual([])
  const entries = new Set(Object.keys(manifest.exports).map((path) => path.replace(/^\./, 'holdfast')))
  const ours = others.filter((specifier) => specifier.startsWith('holdfast'))
  expect(ours).toEqual(expect.arrayContaining(['holdfast/client', 'holdfast/react']))
  expect(ours.filter((specifier) => !entries.has(specifier))).toEqual([])
})

const violations: [string, Record<string, string>, RegExp][] = [
  ['a package in core', { 'core/turn.ts': "import { v7 } from 'uuid'" }, /core imports no such package/],
  [
    'a Node module in core',
    { 'core/turn.ts': "import type { Server } from 'node:http'" },
    /core imports no such package/,
  ],
  [
    'a Node module in the page',
    { 'ai-sdk/log.ts': "import { setTimeout } from 'node:timers'" },
    /ai-sdk imports no such/,
  ],
  [
    'a test runner in testing',
    { 'testing/test-server.ts': "import { onTestFinished } from 'vitest'" },
    /testing imports no such package/,
  ],
  ['kill points in core', { 'core/turn.ts': "import { point } from '#points'" }, /#points/],
  [
    'http in runner, by type alone',
    { 'runner/runner.ts': "import type { Route } from '../http/route.ts'", 'http/route.ts': '' },
    /runner\/runner.ts \(runner\) imports http\/route.ts/,
  ],
  [
    'runner in http, over several lines',
    { 'http/app.ts': "import {\n  a,\n  b,\n} from '../runner/runner.ts'", 'runner/runner.ts': '' },
    /http\/app.ts/,
  ],
  [
    'a wire file in a layer, by a call',
    { 'store/rows.ts': "const a = await import('../engine.ts')", 'engine.ts': '' },
    /store\/rows.ts/,
  ],
  ['a re-export outside a public file', { 'log/hub.ts': "export * from './feed.ts'", 'log/feed.ts': '' }, /re-exports/],
  [
    'a cycle, by type alone',
    { 'log/a.ts': "import type { B } from './b.ts'", 'log/b.ts': "import { a } from './a.ts'" },
    /a cycle: log\/a.ts → log\/b.ts → log\/a.ts/,
  ],
  ['a layer that nobody knows', { 'common/all.ts': "import '../core/turn.ts'", 'core/turn.ts': '' }, /no known layer/],
]

test.each(violations)('the check catches %s', (_what, files, problem) => {
  expect(problemsOf(new Map(Object.entries(files))).join('\n')).toMatch(problem)
})
