/** Ends the command: one line for what people can mend, the stack for what they cannot. */
export function exit(error: unknown): never {
  process.stderr.write(`${lineOf(error)}\n`)
  process.exit(1)
}

/** By the error's code: Node's for sockets and names, SQLSTATE for the database. */
const sentences: Record<string, (error: Details) => string> = {
  EADDRINUSE: ({ port }) => `Port ${port} is in use. End what listens there, or set PORT to another one.`,
  EACCES: ({ port, message }) => (port === undefined ? message : `Port ${port} is not allowed to this user. Set PORT.`),
  EADDRNOTAVAIL: ({ address }) => `HOST is ${address}, which is no address of this machine.`,
  ENOTFOUND: ({ hostname }) => `The host "${hostname}" is not known. Are HOST and DATABASE_URL right?`,
  ECONNREFUSED: () => 'The database refuses connections. Is it running, and is DATABASE_URL right?',
  ERR_INVALID_URL: () => 'DATABASE_URL: expected a URL like postgres://user:password@host:5432/database.',
  '28P01': () => 'The database refuses the user or password in DATABASE_URL.',
  '3D000': () => 'The database named in DATABASE_URL does not exist.',
}
type Details = Error & { code?: unknown; port?: number; address?: string; hostname?: string }

/** Errors whose message is already the line that people need; by name, so that nothing of the embedded database is loaded. */
const spoken = new Set(['OptionError', 'EmbeddedError', 'MigrationError', 'SourceError'])

export function lineOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if (spoken.has(error.name)) return error.message
  return known(error) ?? error.stack ?? error.message
}

/** By the error's own code, or that of what caused it. */
function known(error: Error): string | undefined {
  const { code } = error as Details
  if (typeof code === 'string' && sentences[code]) return sentences[code](error)
  return error.cause instanceof Error ? known(error.cause) : undefined
}
