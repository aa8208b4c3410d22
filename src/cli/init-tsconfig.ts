/** What `holdfast init` reads of a tsconfig.json or jsconfig.json: JSON with comments, and commas before a bracket. */
import { posix } from 'node:path'
import * as z from 'zod'

const schema = z.object({
  compilerOptions: z.object({
    baseUrl: z.string().default('.'),
    paths: z.object({ '@/*': z.array(z.string()).min(1) }),
  }),
})

/**
 * Whether `@/` leads to `base`, which is '' (the folder of the file) or 'src/'. False, too, where the text is none that can
 * be read, or the alias comes from a file that it extends: an import with a path leads there in any case.
 */
export function hasAlias(text: string, base: string): boolean {
  const config = schema.safeParse(parsed(text)).data?.compilerOptions
  return config !== undefined && posix.join(config.baseUrl, config.paths['@/*'][0]!) === `${base}*`
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(plainJson(text))
  } catch {
    // TypeScript itself says what is wrong with it.
    return undefined
  }
}

/** Takes out comments, and the commas that JSON does not allow. What stands in strings is kept, such as the `/*` of paths. */
export function plainJson(text: string): string {
  return text
    .replace(/^\uFEFF/, '')
    .replace(/("(?:\\.|[^"\\])*")|\/\/.*|\/\*[\s\S]*?\*\//g, '$1')
    .replace(/("(?:\\.|[^"\\])*")|,(?=\s*[}\]])/g, '$1')
}
