/**
 * Named moments at which a test may kill, pause or break the process. Everywhere but under the condition
 * `holdfast-test` (see `imports` in package.json) this is an empty function; the real one is not in the package.
 */
export function point(_name: string): void | Promise<void> {
  // Nothing, on purpose.
}
