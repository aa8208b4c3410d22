/** The files that `holdfast init` writes, as text. docs/guides/use-chat.md has the same; a test compares them. */
import { type App, isDirectory, type Next, type Server } from './init-app.ts'

/** `does`: what a file in its place has where it does the work already, as the app's own words have it. */
export type Wanted = { path: string; text: string; does: RegExp }

/** What the words of a file depend on: its types, and how it imports. */
export type Language = { isTyped: boolean; isModule: boolean }

export const makesHoldfast = /\bcreateHoldfast\b/
export const handsOver = /\.handlers\b/

/** The Next.js app's files: the definition, and the routes of `useChat` and of files and followers. */
export function nextFiles(app: App, { base, hasAlias }: Next): { chat: Wanted; routes: [Wanted, Wanted] } {
  const language = { isTyped: app.isTyped, isModule: true }
  const extension = app.isTyped ? 'ts' : 'js'
  const route = (directory: string, methods: string): Wanted => {
    const up = directory.replaceAll(/[^/]+/g, '..')
    const from = hasAlias ? '@/lib/holdfast' : `${up}/../lib/holdfast`
    const text = `import { chat } from '${from}';\nexport const { ${methods} } = chat.handlers;\n`
    return { path: `${base}app/${directory}/route.${extension}`, text, does: handsOver }
  }
  return {
    chat: {
      path: `${base}lib/holdfast.${extension}`,
      text: definition(app.dependencies, language),
      does: makesHoldfast,
    },
    routes: [route('api/chat/[[...path]]', 'GET, POST'), route('v1/[...path]', 'GET, POST, PATCH, DELETE')],
  }
}

/** For Express and Hono: one file beside the one that makes the app, in its language. `importedAs`: what that one says. */
export function serverFiles(app: App, { file }: Server): { chat: Wanted; language: Language; importedAs: string } {
  const path = file?.path ?? `${isDirectory(app.folder, 'src') ? 'src/' : ''}server.${app.isTyped ? 'ts' : 'js'}`
  const directory = path.slice(0, path.lastIndexOf('/') + 1)
  const extension = path.slice(path.lastIndexOf('.') + 1)
  const text = file?.text ?? ''
  const isTyped = extension.endsWith('ts')
  // A bundler lets an app import where Node would not.
  const isModule = extension === 'mjs' || (extension === 'js' && (app.isModule || /^import\b/m.test(text)))
  const language = { isTyped, isModule: isTyped || isModule }
  return {
    chat: {
      path: `${directory}holdfast.${extension}`,
      text: definition(app.dependencies, language),
      does: makesHoldfast,
    },
    language,
    importedAs: `./holdfast${endingOf(extension, isModule || app.isModule, text)}`,
  }
}

/** As Node and TypeScript want it: none in CommonJS, else that of the built file, or the app's own way. */
function endingOf(extension: string, isModule: boolean, text: string): string {
  if (/\bfrom ['"]\.[^'"]*\.[cm]?ts['"]/.test(text)) return `.${extension}`
  if (extension.length > 2) return `.${extension.replace('ts', 'js')}`
  return isModule ? '.js' : ''
}

function definition(dependencies: App['dependencies'], language: Language): string {
  const [before, body] = dependencies.has('ai') ? withModel(dependencies, language) : withoutModel(language)
  return `${[...before, importLine(language, namesOfOwn(language), 'holdfast')].join('\n')}

${definitionLine(language)}

${body}`
}

export const namesOfOwn = ({ isTyped }: Language) => (isTyped ? 'createHoldfast, type ReplyContext' : 'createHoldfast')

export function importLine({ isModule }: Language, names: string, from: string): string {
  return isModule ? `import { ${names} } from '${from}';` : `const { ${names} } = require('${from}');`
}

/** `reply` stands below it, as a declaration that is there from the beginning. */
export function definitionLine({ isModule }: Language): string {
  const line = 'const chat = createHoldfast({ database: process.env.DATABASE_URL, reply });'
  return isModule ? `export ${line}` : `${line}\nmodule.exports = { chat };`
}

/** As `ai` itself shows them. */
const models: Record<string, { name: string; model: string }> = {
  '@ai-sdk/openai': { name: 'openai', model: "openai('gpt-5.1')" },
  '@ai-sdk/anthropic': { name: 'anthropic', model: "anthropic('claude-sonnet-4-5')" },
}
/** A model's name alone goes to the AI Gateway. */
const gatewayModel = "'openai/gpt-5.1'"

export const providerOf = (dependencies: App['dependencies']) =>
  Object.keys(models).find((name) => dependencies.has(name))

type Definition = [imports: string[], body: string]

function withModel(dependencies: App['dependencies'], language: Language): Definition {
  const provider = providerOf(dependencies)
  const { name, model } = provider === undefined ? { name: '', model: gatewayModel } : models[provider]!
  return [
    [
      importLine(language, 'streamText, convertToModelMessages', 'ai'),
      ...(provider === undefined ? [] : [importLine(language, name, provider)]),
    ],
    `async function reply({ messages, signal }${contextType(language)}) {
  const result = streamText({
    model: ${model},
    messages: await convertToModelMessages(messages),
    abortSignal: signal,
    maxRetries: 0,
  });

  return result;
}
`,
  ]
}

function withoutModel(language: Language): Definition {
  return [
    [],
    `// The model goes here. Answer a string, a stream of strings, or what streamText of the AI SDK answers.
async function* reply({ message }${contextType(language)}) {
  const said = message.parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
  for (const word of \`You said: \${said}\`.split(' ')) yield \`\${word} \`;
}
`,
  ]
}

export const contextType = ({ isTyped }: Language) => (isTyped ? ': ReplyContext' : '')
