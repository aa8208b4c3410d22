/** docs/guides/use-chat.md, done: the quickstart with the guide's diffs is built, served and used in Chromium. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { getRequestListener } from '@hono/node-server'
import type { Page } from 'playwright-core'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import type { Holdfast } from '../../src/index.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { type Provider, startProvider } from '../support/provider.mjs'
import type { TcpProxy } from '../support/proxy.ts'
import { startBrowser } from '../web/support.ts'
import { diffsOf, patched, quickstartOf, readGuide, rowsOf } from './guide.ts'
import { buildFor, originOf, proxyOf } from './site.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const environment = { ...process.env }
afterEach(() => {
  process.env = { ...environment }
})

test('the diff fits the quickstart that both majors bring, and is of 20 lines at most', async () => {
  const guide = await readGuide()
  const diffs = diffsOf(guide)
  const the = guide.slice(0, guide.indexOf('\n## History'))
  expect(diffsOf(the).reduce((sum, { changed }) => sum + changed, 0)).toBeLessThanOrEqual(20)
  const [six, seven] = await Promise.all([quickstartOf('ai'), quickstartOf('ai7')])
  patched(six, diffs)
  expect(seven.get('app/page.tsx')).toBe(six.get('app/page.tsx'))
})

test('every row of the table is a test in both majors', async () => {
  const rows = rowsOf(await readGuide(), 'Which cut heals how')
  expect(rows).toHaveLength(6)
  const tests = await readFile(new URL('./pages.test.ts', import.meta.url), 'utf8')
  for (const row of rows) expect(tests).toMatch(new RegExp(`^  it(\\.each\\(heals\\))?\\('${row}:`, 'm'))
})

/** The app's files, where bare imports find what is installed. Next's own `headers` is of the request that is answered. */
async function writeApp(major: SdkMajor): Promise<string> {
  const dir = join(root, 'test/use-chat/dist', `guide-${major}`)
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  const files = patched(await quickstartOf('ai'), diffsOf(await readGuide()))
  files.set(
    'next-headers.ts',
    'export const asked = { headers: new Headers() }\nexport const headers = async () => asked.headers\n',
  )
  files.set(
    'index.html',
    '<script type="application/json" id="props">[]</script><div id="root"></div><script type="module" src="./main.tsx"></script>',
  )
  files.set(
    'main.tsx',
    `import { createRoot } from 'react-dom/client'
import Chat from './app/chat'
const { textContent } = document.getElementById('props') as HTMLElement
createRoot(document.getElementById('root') as HTMLElement).render(<Chat {...JSON.parse(textContent ?? '')} />)
`,
  )
  files.set(
    'tsconfig.json',
    JSON.stringify({
      extends: join(root, 'web/tsconfig.json'),
      compilerOptions: { types: ['node'], paths: { holdfast: [join(root, 'dist/index.d.ts')] } },
      include: ['.'],
    }),
  )
  for (const [path, code] of files) {
    await mkdir(dirname(join(dir, path)), { recursive: true })
    await writeFile(
      join(dir, path),
      path.endsWith('.json') ? code : resolved(code, dir, dirname(join(dir, path)), major),
    )
  }
  return dir
}

/** What an app's bundler and package.json would make of these names. */
function resolved(code: string, dir: string, from: string, major: SdkMajor): string {
  const up = from === dir ? '.' : from.slice(dir.length + 1).replaceAll(/[^/]+/g, '..')
  const named = code.replaceAll("'@/lib/", `'${up}/lib/`).replaceAll("'next/headers'", `'${up}/next-headers'`)
  if (major === 6) return named
  return named
    .replaceAll("'ai'", "'ai7'")
    .replaceAll("'@ai-sdk/openai'", "'openai7'")
    .replaceAll("'@ai-sdk/react'", "'react7'")
}

type Handler = (request: Request) => Promise<Response>

/** As Next.js would: the route, the server component with its props in the page, the files. */
async function serve(dir: string, assets: string): Promise<{ url: string; chat: Holdfast }> {
  const route = (await import(join(dir, 'app/api/chat/[[...path]]/route.ts'))) as { GET: Handler; POST: Handler }
  const { default: page } = await import(join(dir, 'app/chat/[id]/page.tsx'))
  const { asked } = await import(join(dir, 'next-headers.ts'))
  const { chat } = (await import(join(dir, 'lib/holdfast.ts'))) as { chat: Holdfast }
  const html = await readFile(join(assets, 'index.html'), 'utf8')
  const answer: Handler = async (request) => {
    const { pathname } = new URL(request.url)
    if (pathname.startsWith('/api/chat')) return route[request.method as 'GET' | 'POST'](request)
    const id = /^\/chat\/([^/.]+)$/.exec(pathname)?.[1]
    if (id === undefined) {
      const file = await readFile(join(assets, pathname.slice(pathname.indexOf('/assets/')))).catch(() => null)
      const type = extname(pathname) === '.js' ? 'text/javascript' : 'text/plain'
      return new Response(file, { status: file ? 200 : 404, headers: { 'content-type': type } })
    }
    asked.headers = request.headers
    const { props, key } = await page({ params: Promise.resolve({ id }) })
    expect(key).toBe(id)
    const inlined = JSON.stringify(props).replaceAll('<', '\\u003c')
    return new Response(
      html.replace('>[]<', () => `>${inlined}<`),
      { headers: { 'content-type': 'text/html' } },
    )
  }
  const server = createServer(getRequestListener(answer, { overrideGlobalObjects: false }))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(async () => {
    await chat.close()
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, chat }
}

async function openApp(major: SdkMajor): Promise<{ tab: Page; proxy: TcpProxy; provider: Provider; dir: string }> {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const provider = await startProvider()
  onTestFinished(() => provider.stop())
  process.env.DATABASE_URL = database.url
  process.env.OPENAI_API_KEY = 'a-key-of-the-tests'
  process.env.OPENAI_BASE_URL = provider.url
  const dir = await writeApp(major)
  const [assets, browser] = await Promise.all([buildFor(major, dir), startBrowser()])
  onTestFinished(() => assets.remove())
  const { url } = await serve(dir, assets.dir)
  const proxy = await proxyOf(url)
  onTestFinished(() => proxy.close())
  onTestFinished(() => browser.close())
  const tab = await browser.newPage()
  const complaints: string[] = []
  tab.on('pageerror', (error) => complaints.push(String(error)))
  onTestFinished(() => expect(complaints).toEqual([]))
  await tab.goto(`${originOf(proxy)}/chat/a-chat`)
  return { tab, proxy, provider, dir }
}

/** Each message with its author's name, as the quickstart shows it. */
const shownOn = (tab: Page) => tab.locator('div.whitespace-pre-wrap').allTextContents()

async function say(tab: Page, text: string): Promise<void> {
  await tab.getByPlaceholder('Say something...').fill(text)
  await tab.keyboard.press('Enter')
}

test.each([6, 7] as const)(
  'the quickstart with the diffs made, in AI SDK %i: reload, cut and a message that did not arrive, asked once each',
  async (major) => {
    const { tab, proxy, provider, dir } = await openApp(major)
    let goOn!: () => void
    const gate = new Promise<void>((resolve) => {
      goOn = resolve
    })
    provider.script(({ index }) =>
      index === 0 ? [{ text: 'Half' }, { wait: gate }, { text: ' and whole.' }] : [{ text: 'Yes.' }],
    )
    await say(tab, 'Hello')
    await tab.getByText('Half', { exact: true }).waitFor()
    await tab.reload()
    await tab.getByText('Half', { exact: true }).waitFor()
    proxy.cutAll()
    await tab.getByRole('button', { name: 'Try again' }).waitFor()
    goOn()
    await tab.getByText('Half and whole.').waitFor()
    expect(await shownOn(tab)).toEqual(['User: Hello', 'AI: Half and whole.'])
    expect(provider.requests).toHaveLength(1)

    proxy.refuse()
    proxy.cutAll()
    await say(tab, 'There?')
    await tab.getByRole('button', { name: 'Try again' }).waitFor()
    proxy.accept()
    await tab.getByText('Yes.').waitFor()
    const all = ['User: Hello', 'AI: Half and whole.', 'User: There?', 'AI: Yes.']
    expect(await shownOn(tab)).toEqual(all)
    await tab.reload()
    await eventually(async () => (await shownOn(tab)).length === 4)
    expect(await shownOn(tab)).toEqual(all)
    expect(provider.requests).toHaveLength(2)
    // The code has the types of what it uses.
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    await promisify(execFile)(process.execPath, [tsc, '-p', dir]).catch(({ stdout }) => expect(stdout).toBe(''))
  },
)
