/**
 * The route of an AI SDK app made into the definition of a Holdfast: the diff of docs/guides/use-chat.md, for routes of
 * the shape that the SDK's quickstart has. Any other is its author's to take over: half a translation would compile and
 * do something else, such as asking who the user is where there is no request.
 */
import { contextType, definitionLine, importLine, type Language, namesOfOwn } from './init-files.ts'

/** Null: not of that shape. */
export function movedRoute(route: string, language: Language): string | null {
  const eol = route.includes('\r\n') ? '\r\n' : '\n'
  const moved = translated(route.replaceAll('\r\n', '\n'), language)
  return moved === null ? null : moved.replaceAll('\n', eol)
}

/** The messages are read, one model is asked, and its result is the answer: nothing stands between these. */
const opening = String.raw`^export async function POST\((?<request>\w+)(?:: Request)?\) \{\n`
const reading = String.raw` {2}const \{ messages \}(?:: \{ messages: UIMessage\[\];? \})? = await \k<request>\.json\(\);?\n+`
const asking = String.raw`(?<call> {2}const result = streamText\(\{\n(?:(?! {2}\S).*\n)* {2}\}\);?\n+)`
const inSix = String.raw`result\.toUIMessageStreamResponse\(\)`
const inSeven = String.raw`createUIMessageStreamResponse\(\{\s*stream: toUIMessageStream\(\{ stream: result\.stream \}\),?\s*\}\)`
const shape = new RegExp(String.raw`${opening}${reading}${asking} {2}return (?:${inSix}|${inSeven});?\n\}\n`, 'm')
const told = /^ {4}messages: (?:await )?convertToModelMessages\(messages\),\n/gm
const telling = `    messages: await convertToModelMessages(messages),
    abortSignal: signal,
    maxRetries: 0,
`

function translated(route: string, language: Language): string | null {
  const found = shape.exec(route)
  if (found?.groups === undefined || !isAlone(route)) return null
  const { request, call = '' } = found.groups
  const [at, ...others] = [...call.matchAll(told)].map(({ index }) => index)
  // Where there are two, one may be of another call, or of a text.
  if (at === undefined || others.length > 0 || isInComment(call, at)) return null
  const asked = withTools(call.replace(told, telling), route)
  // Where the request is used for more, the reply depends on something that is not stored with the message.
  if (new RegExp(`\\b${request}\\b`).test(asked)) return null
  const names = wrapsTools(asked) ? '{ messages, signal, tools }' : '{ messages, signal }'
  const reply = `async function reply(${names}${contextType(language)}) {\n${asked}  return result;\n}\n`
  return withImports(
    route.replace(found[0], () => `${definitionLine(language)}\n\n${reply}`),
    language,
  )
}

const isInComment = (code: string, at: number) => code.lastIndexOf('/*', at) > code.lastIndexOf('*/', at)

const literalTools = /^ {4}tools: (\{(?:[^{}\n]*|\n(?:(?! {4}\S).*\n)* {4})\}),?\n/m
/** Within `tools( )` TypeScript knows no more what such a one is given. With `tool( )` around, it does. */
const untypedTool = /^ {6}[\w'"]+: \{$/m

/** The call with its tools wrapped, where they are written out in it and no other `tools` is meant anywhere. */
function withTools(call: string, route: string): string {
  const found = literalTools.exec(call)
  const isOnly = route.match(/(?<!\.)\btools\b/g)?.length === 1
  if (found === null || !isOnly || isInComment(call, found.index)) return call
  const [, literal = ''] = found
  if (untypedTool.test(literal)) return call
  return call.replace(literalTools, () => `    tools: tools(${literal}),\n`)
}

/** Of a reply as `movedRoute` writes it: its call of the model has tools, and gives them to `tools` of the context. */
export const hasTools = (code: string): boolean => /^ {4}tools\b/m.test(code)
export const wrapsTools = (code: string): boolean => /^ {4}tools: tools\(/m.test(code)

/**
 * The AI SDK, its providers, and what describes tools: nothing of them asks for a request. Any other package or file may,
 * such as `next/headers` or what signs users in.
 */
const known = /^(?:ai|zod|@ai-sdk\/[\w-]+|@openrouter\/ai-sdk-provider|ollama-ai-provider)(?:\/|$)/

/** It exports nothing else, needs nothing but what is known, and sets none of the options that are set here. */
function isAlone(route: string): boolean {
  const imported = [...route.matchAll(/\bimport\b[^'"]*['"]([^'"]*)/g)].map(([, from = '']) => from)
  return (
    route.match(/^export\b/gm)?.length === 1 &&
    imported.every((from) => known.test(from)) &&
    !/\bimport\s*\(|\brequire\s*\(/.test(route) &&
    !/\b(abortSignal|maxRetries|onFinish|onError|(?:const|let|function) (?:chat|reply|signal))\b/.test(route)
  )
}

const fromSdk = /^import \{([^}]*)\} from (['"])ai\2;?\n/m

function withImports(code: string, language: Language): string | null {
  const [line, names] = fromSdk.exec(code) ?? []
  if (line === undefined || names === undefined) return null
  const rest = code.replace(line, '')
  const used = names
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '' && new RegExp(`\\b${name.replace(/^(?:type|.* as) +/, '')}\\b`).test(rest))
  const shorter = code.replace(line, () => `${importLine(language, used.join(', '), 'ai')}\n`)
  // After the last of the imports, which stand at the head of the file.
  const [head] = /^(?:import\b[^;]*?\bfrom ['"][^'"]+['"];?\n)+/.exec(shorter) ?? []
  if (head === undefined) return null
  return `${head}${importLine(language, namesOfOwn(language), 'holdfast')}\n${shorter.slice(head.length)}`
}
