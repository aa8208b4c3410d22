import { OptionError } from '../index.ts'

/** Ends the command: one line for what people can mend, the stack for what they cannot. */
export function exit(error: unknown): never {
  process.stderr.write(`${lineOf(error)}\n`)
  process.exit(1)
}

const sentences: Record<string, string> = {
  EADDRINUSE: 'The port is in use. Set PORT to another one.',
  ECONNREFUSED: 'The database refuses connections. Is it running, and is DATABASE_URL right?',
  ENOTFOUND: 'The host in DATABASE_URL is not known.',
  '28P01': 'The database refuses the user or password in DATABASE_URL.',
  '3D000': 'The database named in DATABASE_URL does not exist.',
}

function lineOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (error instanceof OptionError || error.name === 'EmbeddedError') return error.message
  const code = codeOf(error)
  return (code && sentences[code]) ?? error.stack ?? error.message
}

/** The error's own code, or that of what caused it. */
function codeOf(error: Error): string | undefined {
  const { code } = error as { code?: unknown }
  if (typeof code === 'string') return code
  return error.cause instanceof Error ? codeOf(error.cause) : undefined
}
