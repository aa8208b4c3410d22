/** What is left to do after `holdfast init`, which changes no file that it did not name: lines to type, and lines to add. */
import { type App, type Manager, readIfThere, type Server } from './init-app.ts'
import { importLine, makesHoldfast, providerOf, serverFiles } from './init-files.ts'
import { hasTools, wrapsTools } from './init-moved-route.ts'
import type { Plan } from './init-plan.ts'

export function nextSteps(app: App, plan: Plan): string {
  const steps = [
    ...install(app),
    ...frameworkSteps(app, plan),
    ...modelSteps(app, plan),
    ...toolSteps(plan),
    ...(plan.changes.length > 0 ? [...storeSteps(app.folder), beforeOthers] : []),
  ]
  return steps.length === 0 ? '' : `\nWhat to do next:\n${steps.map((step) => `\n${indented(step)}\n`).join('')}`
}

function frameworkSteps(app: App, plan: Plan): string[] {
  if (app.kind.framework === 'other') return []
  if (app.kind.framework !== 'next') return serverSteps(app, app.kind)
  return [...configSteps(app.folder), ...pageSteps(plan)]
}

const indented = (step: string) => step.replaceAll(/^(?=.)/gm, '  ')

const adds: Record<Manager, string> = { npm: 'npm install', pnpm: 'pnpm add', yarn: 'yarn add', bun: 'bun add' }

function install({ dependencies, manager }: App): string[] {
  const range = dependencies.get('ai') ?? ''
  const [major] = /\d+/.exec(range) ?? []
  const isOld = major !== undefined && Number(major) < 6
  return [
    ...(isOld
      ? [`package.json has ai ${range}, and Holdfast reads what 6 and 7 answer: upgrade the AI SDK first.`]
      : []),
    ...(dependencies.has('holdfast') ? [] : [`${adds[manager]} holdfast`]),
  ]
}

function configSteps(folder: string): string[] {
  const paths = ['ts', 'mts', 'js', 'mjs', 'cjs'].map((extension) => `next.config.${extension}`)
  const path = paths.find((each) => readIfThere(folder, each) !== null)
  if (path !== undefined && /['"]holdfast['"]/.test(readIfThere(folder, path) ?? '')) return []
  return [
    `Add to the options in ${path ?? 'next.config.ts'}, so that Next.js loads Holdfast as it is instead of bundling it:\n\n  serverExternalPackages: ['holdfast'],`,
  ]
}

function pageSteps({ changes, setAside }: Plan): string[] {
  if (changes.length === 0) return []
  return [
    ...setAside.map((path) => `Take over what is needed of ${path}, such as its model call, and delete it.`),
    'The page stays as it is. To go on with a reply after a reload it says useChat({ id, resume: true }), with an id of\nthe chat that is the same then; docs/guides/use-chat.md shows that, the history, and what of your own can go.',
  ]
}

function serverSteps(app: App, server: Server): string[] {
  const { file } = server
  const { chat, language, importedAs } = serverFiles(app, server)
  // Both are there where the app mounts it already, in one file or in two.
  if (file !== null && /\bchat\.(node|fetch)\b/.test(file.text)) return []
  const lines = [importLine(language, 'chat', importedAs), ...mountLines(server)]
  const name = file?.path ?? 'the file that makes the app'
  return [
    `Add to ${name}, before the app's own routes:\n\n${lines.map((line) => `  ${line}`).join('\n')}`,
    ...(file !== null && /['"`]\/api\/chat/.test(file.text)
      ? [`${file.path} answers /api/chat already: that route goes, and its model call belongs into ${chat.path}.`]
      : []),
    'Where the process ends (SIGTERM), await chat.close(): what is being written is handed to another one.',
  ]
}

/** A pattern, because Express 4 and 5 spell paths with a rest differently. Never `use`, which cuts the path short. */
function mountLines({ framework, file }: Server): string[] {
  const made = framework === 'express' ? /(\w+)\s*=\s*express\(\)/ : /(\w+)\s*=\s*new Hono\b/
  const app = made.exec(file?.text ?? '')?.[1] ?? 'app'
  if (framework === 'express') return [`${app}.all(/^\\/(api\\/chat|v1)(\\/|$)/, chat.node);`]
  return ['/api/chat/*', '/v1/*'].map((path) => `${app}.all('${path}', (context) => chat.fetch(context.req.raw));`)
}

function modelSteps({ dependencies }: App, { changes }: Plan): string[] {
  const made = changes.find(({ from, after }) => from === null && /\breply\b/.test(after))
  if (made === undefined) return []
  if (!dependencies.has('ai')) return [`Until a model is asked in ${made.to}, it says what was sent.`]
  const key =
    providerOf(dependencies) === undefined ? ' As it stands, it goes to the AI Gateway (AI_GATEWAY_API_KEY).' : ''
  return [`Put your model, its tools (tools: tools({ … }), docs/tools.md) and instructions\ninto ${made.to}.${key}`]
}

function toolSteps({ changes }: Plan): string[] {
  const moved = changes.find(({ from, to, after }) => from !== null && from !== to && makesHoldfast.test(after))
  if (moved === undefined || !hasTools(moved.after)) return []
  return [
    wrapsTools(moved.after)
      ? `The tools in ${moved.to} are wrapped: a call that has its result never runs again. docs/tools.md says what becomes of\none whose process dies while it runs.`
      : `The tools in ${moved.to} are as they were, and a takeover may run a call again: give the model\ntools: tools(…), with the tools that reply is given, as docs/tools.md shows.`,
  ]
}

function storeSteps(folder: string): string[] {
  const ignored = readIfThere(folder, '.gitignore')?.split(/\r?\n/) ?? []
  const isIgnored = ignored.some((line) => /^\/?\.holdfast\/?$/.test(line.trim()))
  return [
    `Without DATABASE_URL a database of its own is made in .holdfast/${isIgnored ? '' : ': add that to .gitignore'}.\nWith it, the schema holdfast is made in that one.`,
  ]
}

const beforeOthers =
  'Before others use it: without the option authenticate everybody is a guest, and only on this machine.\nREADME, "To production", has the rest.'
