/** What `holdfast init` reads of an app's folder before it says anything. It writes nothing. */
import { existsSync, lstatSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import * as z from 'zod'
import { OptionError } from '../index.ts'
import { hasAlias } from './init-tsconfig.ts'

export const frameworks = ['next', 'express', 'hono'] as const
export type Framework = (typeof frameworks)[number]
export type Manager = 'npm' | 'pnpm' | 'yarn' | 'bun'

/** Paths are relative to `folder`, with `/`. */
export type App = {
  folder: string
  /** Ranges by package, of `dependencies` and `devDependencies`. */
  dependencies: ReadonlyMap<string, string>
  /** `type` of package.json: what a `.js` is. */
  isModule: boolean
  isTyped: boolean
  manager: Manager
  kind: Next | Server | Other
}
/** `base` is '' or 'src/': where `app/` is. `hasAlias`: `@/` leads there. */
export type Next = { framework: 'next'; base: '' | 'src/'; hasAlias: boolean }
/** `file`: where the app is made, as far as it was found. */
export type Server = { framework: 'express' | 'hono'; file: { path: string; text: string } | null }
/** A server made with something else, whose file says that it has Holdfast already. */
export type Other = { framework: 'other'; path: string }

/** Throws an `OptionError` where it is not clear what to write, or where nothing can be written. */
export function readApp(folder: string, asked: string | undefined): App {
  const manifest = readManifest(folder)
  const dependencies = new Map(Object.entries({ ...manifest.devDependencies, ...manifest.dependencies }))
  return {
    folder,
    dependencies,
    isModule: manifest.type === 'module',
    isTyped: existsSync(join(folder, 'tsconfig.json')),
    manager: managerOf(folder, manifest.packageManager),
    kind: kindOf(folder, manifest, askedFramework(asked) ?? foundFramework(folder, manifest, dependencies)),
  }
}

function kindOf(folder: string, manifest: Manifest, found: Framework | Other): App['kind'] {
  if (found === 'next') return nextIn(folder)
  if (typeof found === 'object') return found
  return { framework: found, file: serverFile(folder, manifest, callsThatMake[found]) }
}

/** npm takes null for none. */
const ranges = z
  .record(z.string(), z.string())
  .nullish()
  .transform((each) => each ?? {})
const manifestSchema = z.object({
  type: z.string().optional(),
  main: z.string().optional(),
  packageManager: z.string().optional(),
  workspaces: z.unknown().optional(),
  scripts: ranges,
  dependencies: ranges,
  devDependencies: ranges,
})
type Manifest = z.infer<typeof manifestSchema>

function readManifest(folder: string): Manifest {
  const path = join(folder, 'package.json')
  if (!existsSync(path)) {
    throw new OptionError(
      "There is no package.json here: run holdfast init in your app's folder. For a chat without an app there is holdfast demo.",
    )
  }
  try {
    // Some editors put a mark at the beginning, which npm passes over, too.
    return manifestSchema.parse(JSON.parse(readFileSync(path, 'utf8').replace(/^\uFEFF/, '')))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = code === undefined ? 'is not the JSON that npm expects' : `cannot be read (${code})`
    throw new OptionError(`package.json ${why}: mend it, and run holdfast init again.`)
  }
}

function askedFramework(asked: string | undefined): Framework | undefined {
  if (asked === undefined) return undefined
  const found = frameworks.find((each) => each === asked)
  if (found) return found
  throw new OptionError(`--framework: expected ${frameworks.join(', ')}, got "${asked}".`)
}

/** What package.json has to name. */
const packages: Record<Framework, { name: string; needs: readonly string[] }> = {
  next: { name: 'Next.js', needs: ['next'] },
  express: { name: 'Express', needs: ['express'] },
  hono: { name: 'Hono', needs: ['hono', '@hono/node-server'] },
}
const lookedFor = 'Next.js (next), Express (express), Hono on Node (hono and @hono/node-server)'
const sayWhich = `say which with --framework ${frameworks.join('|')}`

function foundFramework(folder: string, manifest: Manifest, dependencies: App['dependencies']): Framework | Other {
  const named = frameworks.filter((each) => packages[each].needs.every((name) => dependencies.has(name)))
  // A library of one may be there for a test or a script: then the files tell.
  const shown = named.length > 1 ? named.filter((each) => hasFilesOf(folder, manifest, each)) : named
  if (shown.length === 1) return shown[0]!
  if (named.length > 1) {
    const names = named.map((each) => packages[each].name).join(' and ')
    throw new OptionError(`package.json has ${names}: ${sayWhich}.`)
  }
  const file = serverFile(folder, manifest, namesHoldfast)
  if (file !== null) return { framework: 'other', path: file.path }
  throw new OptionError(nothingFound(folder, manifest, dependencies))
}

function hasFilesOf(folder: string, manifest: Manifest, framework: Framework): boolean {
  if (framework !== 'next') return serverFile(folder, manifest, callsThatMake[framework]) !== null
  return ['app', 'pages', 'src/app', 'src/pages'].some((path) => isDirectory(folder, path))
}

function nothingFound(folder: string, manifest: Manifest, dependencies: App['dependencies']): string {
  if (isMonorepo(folder, manifest)) {
    return `This is the root of a monorepo, and its package.json names none of ${lookedFor}: run holdfast init in the folder of the app.`
  }
  if (dependencies.has('expo')) {
    return "This is an Expo app, and Holdfast runs on its server: run holdfast init in the server's folder. For the app itself see docs/ai-sdk.md, React Native."
  }
  return `package.json names none of ${lookedFor}: ${sayWhich}, or mount chat.node or chat.fetch by hand, as the README says.`
}

function isMonorepo(folder: string, { workspaces }: Manifest): boolean {
  return workspaces !== undefined || existsSync(join(folder, 'pnpm-workspace.yaml'))
}

function nextIn(folder: string): Next {
  // Next.js passes over src/ where one of the two is beside it.
  const base = isDirectory(folder, 'app') || isDirectory(folder, 'pages') ? '' : 'src/'
  if (isDirectory(folder, `${base}app`)) {
    const config = readIfThere(folder, 'tsconfig.json') ?? readIfThere(folder, 'jsconfig.json') ?? ''
    return { framework: 'next', base, hasAlias: hasAlias(config, base) }
  }
  if (isDirectory(folder, `${base}pages`)) {
    throw new OptionError(
      `This Next.js app has ${base}pages/ and no ${base}app/, where Holdfast's routes go: make the folder ${base}app (both may stand side by side), and run holdfast init again.`,
    )
  }
  throw new OptionError('There is no app/ and no src/app/ here: run holdfast init in the folder of the Next.js app.')
}

/** As an import or `require` has it. */
export const namesHoldfast = /['"]holdfast['"]/

const callsThatMake = { express: /\bexpress\(\)/, hono: /\bnew Hono\b/ } as const

/** The first of the files that package.json names, and of those with a usual name, that makes the app. */
function serverFile(folder: string, { main = '', scripts }: Manifest, makes: RegExp): Server['file'] {
  const inScripts = [scripts.dev, scripts.start].flatMap((line) => line?.match(/[\w./-]+\.[cm]?[jt]s\b/g) ?? [])
  const usual = ['', 'src/', 'server/'].flatMap((directory) =>
    ['server', 'app', 'index', 'main'].flatMap((name) =>
      ['ts', 'mts', 'cts', 'js', 'mjs', 'cjs'].map((extension) => `${directory}${name}.${extension}`),
    ),
  )
  for (const each of [main, ...inScripts, ...usual]) {
    const path = each.replace(/^\.\//, '')
    if (!isSource(path)) continue
    const text = readIfThere(folder, path)
    if (text !== null && makes.test(text)) return { path, text }
  }
  return null
}

/** Within the folder, and not what is built. */
function isSource(path: string): boolean {
  return /\.[cm]?[jt]s$/.test(path) && !/^\/|(^|\/)(\.\.|dist|build|out|node_modules)\//.test(path)
}

const lockFiles: Record<string, Manager> = {
  'pnpm-lock.yaml': 'pnpm',
  'yarn.lock': 'yarn',
  'bun.lock': 'bun',
  'bun.lockb': 'bun',
  'package-lock.json': 'npm',
}

/** By the nearest lock file up to the root of the repository: an app of a monorepo has none of its own. */
function managerOf(folder: string, named = ''): Manager {
  const [, manager] = /^(npm|pnpm|yarn|bun)@/.exec(named) ?? []
  if (manager !== undefined) return manager as Manager
  for (let place = folder; ; place = dirname(place)) {
    const found = Object.keys(lockFiles).find((name) => existsSync(join(place, name)))
    if (found !== undefined) return lockFiles[found]!
    if (existsSync(join(place, '.git')) || dirname(place) === place) return 'npm'
  }
}

export function isDirectory(folder: string, path: string): boolean {
  return statSync(join(folder, path), { throwIfNoEntry: false })?.isDirectory() ?? false
}

/** Null where there is no such file. */
export function readIfThere(folder: string, path: string): string | null {
  const file = join(folder, path)
  return lstatSync(file, { throwIfNoEntry: false })?.isFile() ? readFileSync(file, 'utf8') : null
}

/** The route files of Next.js below a directory, in order. Links are not followed. */
export function routeFiles(folder: string, directory: string): string[] {
  return readdirSync(join(folder, directory), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && /^route\.[jt]sx?$/.test(entry.name))
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll('\\', '/'))
    .sort()
}
