/** The app of docs/guides/react-native.md as its reader has it: installed, with the package as it is published, and bundled by Metro. */
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { run } from '../examples/example.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

export type App = {
  folder: string
  /** The path of the bundle. */
  bundle(): Promise<string>
  /** Runs a script of its `node_modules`. Resolves to what it printed. */
  run(path: string, args: string[]): Promise<string>
  /** Runs a program that is no script. */
  compile(program: string, args: string[]): Promise<string>
  remove(): Promise<void>
}

export async function installApp(): Promise<App> {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-react-native-'))
  await cp(join(root, 'test/react-native/app'), folder, { recursive: true })
  await run('npm', ['ci', '--ignore-scripts', '--prefer-offline'], folder)
  const holdfast = join(folder, 'node_modules/holdfast')
  await mkdir(holdfast)
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], root)
  const tarball = (await readdir(folder)).find((name) => name.endsWith('.tgz'))!
  await run('tar', ['-xzf', tarball, '--strip-components=1', '-C', holdfast], folder)
  await writeGuide(folder)
  const runOwn: App['run'] = (path, args) => run(process.execPath, [join('node_modules', path), ...args], folder)
  return {
    folder,
    async bundle() {
      const out = join(folder, 'app.bundle.js')
      const args = ['--out', out, '--platform', 'ios', '--dev', 'false', '--minify', 'false', '--max-workers', '1']
      await runOwn('metro/src/cli.js', ['build', 'index.js', ...args])
      return out
    },
    run: runOwn,
    compile: (program, args) => run(join(folder, program), args, folder),
    remove: () => rm(folder, { recursive: true, force: true }),
  }
}

/** Its files, as they stand there. */
async function writeGuide(folder: string): Promise<void> {
  const guide = await readFile(join(root, 'docs/guides/react-native.md'), 'utf8')
  for (const name of ['chat.ts', 'ChatScreen.tsx']) await writeFile(join(folder, name), blockOf(guide, name))
  const lines = blockOf(guide, 'jest.config.js')
  const transform = `transform: { '\\\\.js$': 'babel-jest' },`
  // What of React Native's own preset concerns where modules come from.
  const conditions = `testEnvironmentOptions: { customExportConditions: ['require', 'react-native'] },`
  await writeFile(join(folder, 'jest.config.js'), `module.exports = {\n${transform}\n${conditions}\n${lines}}\n`)
}

/** The block of code that begins with its file's name. */
function blockOf(guide: string, name: string): string {
  const blocks = [...guide.matchAll(/^```\w+\n\/\/ (\S+)\n([\s\S]*?)^```$/gm)]
  const found = blocks.find(([, title]) => title === name)
  if (found === undefined) throw new Error(`The guide has no block of ${name}.`)
  return found[2]!
}
