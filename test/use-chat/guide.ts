/** The code of docs/guides/use-chat.md: its diffs, made to the AI SDK's quickstart as `ai` itself brings it. */
import { readFile } from 'node:fs/promises'

const read = (path: string) => readFile(new URL(`../../${path}`, import.meta.url), 'utf8')

export const readGuide = (): Promise<string> => read('docs/guides/use-chat.md')

export type Diff = { from: string; to: string; hunks: string[][]; changed: number }

export function diffsOf(guide: string): Diff[] {
  return [...guide.matchAll(/^```diff\n--- (.*)\n\+\+\+ (.*)\n([\s\S]*?)^```$/gm)].map(([, from, to, body]) => {
    const hunks = body!.split(/^@@\n/m).map((hunk) => hunk.split('\n').slice(0, -1))
    return { from: from!, to: to!, hunks, changed: hunks.flat().filter((line) => /^[-+]/.test(line)).length }
  })
}

/** Makes the diffs to the files in order. Throws where a diff does not fit. */
export function patched(files: ReadonlyMap<string, string>, diffs: readonly Diff[]): Map<string, string> {
  const after = new Map(files)
  for (const { from, to, hunks } of diffs) {
    let text = from === '/dev/null' ? '' : after.get(from)
    if (text === undefined) throw new Error(`There is no ${from}.`)
    for (const hunk of hunks) {
      const old = sideOf(hunk, '-')
      if (!text.includes(old)) throw new Error(`${from} has not:\n${old}`)
      text = text.replace(old, () => sideOf(hunk, '+'))
    }
    after.delete(from)
    after.set(to, text)
  }
  return after
}

function sideOf(hunk: readonly string[], side: '-' | '+'): string {
  return hunk
    .filter((line) => line.startsWith(' ') || line.startsWith(side))
    .map((line) => `${line.slice(1)}\n`)
    .join('')
}

/** As the documentation in the package has it, with OpenAI as the provider. */
export async function quickstartOf(sdk: 'ai' | 'ai7'): Promise<Map<string, string>> {
  const paths = ['app/api/chat/route.ts', 'app/page.tsx']
  return new Map(await Promise.all(paths.map(async (path) => [path, (await versionsOf(sdk, path))[0]!] as const)))
}

/** Its route in each of its steps, in order: without tools first, then with more and more of them. */
export const quickstartRoutes = (sdk: 'ai' | 'ai7'): Promise<string[]> => versionsOf(sdk, 'app/api/chat/route.ts')

async function versionsOf(sdk: 'ai' | 'ai7', path: string): Promise<string[]> {
  const text = await read(`node_modules/${sdk}/docs/02-getting-started/02-nextjs-app-router.mdx`)
  const blocks = [...text.matchAll(new RegExp(`filename="${path}".*\n([\\s\\S]*?)^\`\`\`$`, 'gm'))]
  if (blocks.length === 0) throw new Error(`The quickstart of ${sdk} has no ${path}.`)
  return blocks.map(([, code]) =>
    code!
      .replace('__PROVIDER_IMPORT__', "import { openai } from '@ai-sdk/openai'")
      .replace('__MODEL__', "openai('gpt-5.1')"),
  )
}

/** The words in the first column of the table under this heading. */
export function rowsOf(guide: string, heading: string): string[] {
  const section = guide.split(/^## /m).find((each) => each.startsWith(`${heading}\n`)) ?? ''
  return [...section.matchAll(/^\| ([^|]+?) \|/gm)].map(([, first]) => first!).slice(1)
}
