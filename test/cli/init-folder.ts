/** An app's folder, new for each test, and `holdfast init` in it: in this process, for it needs none of its own. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { afterEach, beforeEach, expect } from 'vitest'
import { type Ask, init } from '../../src/cli/init.ts'
import { OptionError } from '../../src/index.ts'

export type Files = Record<string, string>

export let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-init-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

export async function write(files: Files, into = folder): Promise<void> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(into, path)), { recursive: true })
    await writeFile(join(into, path), text)
  }
}

/** Every file of the folder but what is installed. */
export async function filesOf(directory = folder): Promise<Files> {
  const entries = await readdir(directory, { withFileTypes: true, recursive: true })
  const paths = entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)))
    .filter((path) => !/^(node_modules|\.git)\//.test(path))
  const read = async (path: string) => [path, await readFile(join(directory, path), 'utf8')] as const
  return Object.fromEntries(await Promise.all(paths.sort().map(read)))
}

/** What people read. Throws what it throws. */
export function inited(ask: Partial<Ask> = {}, directory = folder): string {
  const printed: string[] = []
  init(directory, { framework: undefined, isDry: false, force: false, ...ask }, (text) => printed.push(text))
  return printed.join('')
}

/** What people read, with the sentence at its end. A refusal changes nothing, whatever it is about. */
export async function refused(ask: Partial<Ask> = {}): Promise<string> {
  const before = await filesOf()
  const printed: string[] = []
  try {
    init(folder, { framework: undefined, isDry: false, force: false, ...ask }, (text) => printed.push(text))
  } catch (error) {
    expect(error).toBeInstanceOf(OptionError)
    expect(await filesOf()).toEqual(before)
    return `${printed.join('')}${(error as OptionError).message}\n`
  }
  throw new Error(`It was not refused:\n${printed.join('')}`)
}

export const manifest = (fields: object) => `${JSON.stringify(fields)}\n`
export const added = (before: Files, after: Files) => Object.keys(after).filter((path) => !(path in before))

export const honoServer = () => `import { serve } from '@hono/node-server'
import { Hono } from 'hono'

const app = new Hono()
app.get('/own', (context) => context.text('own'))
serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) => console.log(\`http://127.0.0.1:\${port}\`))
`
export const honoManifest = (dependencies: object = {}, main?: string) =>
  manifest({ type: 'module', main, dependencies: { hono: '4', '@hono/node-server': '2', ...dependencies } })
