/** The embedded Postgres cannot be had. The message is for a person: what is the matter, and what to do. */
export class EmbeddedError extends Error {
  override readonly name = 'EmbeddedError'
}

/** Said where no binaries exist or run: Alpine (musl), Windows, an install without optional packages. */
export function binariesMissing(reason: string): EmbeddedError {
  return new EmbeddedError(
    `The embedded Postgres does not run on this system (${reason}): set DATABASE_URL to a PostgreSQL 15 or newer.`,
  )
}
