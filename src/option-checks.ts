/** What options are held to, whichever they are: each refuses with a sentence that says what was expected. */
import type { EventSchema } from './core/app-event.ts'

export class OptionError extends Error {
  override readonly name = 'OptionError'
}

export const refuse = (sentence: string): never => {
  throw new OptionError(sentence)
}

export type Bounds = { min: number; max: number; default: number }

export function whole(name: string, given: number | undefined, { min, max, default: usual }: Bounds): number {
  const value = given ?? usual
  if (Number.isInteger(value) && value >= min && value <= max) return value
  throw new OptionError(`${name}: expected a whole number from ${min} to ${max}, got ${String(value)}.`)
}

export function functionOrNone<T>(name: string, value: T): T {
  if (value === undefined || typeof value === 'function') return value
  throw new OptionError(`${name}: expected a function.`)
}

export function oneOf<T extends string | boolean>(name: string, value: T, allowed: readonly T[]): T {
  if (allowed.includes(value)) return value
  throw new OptionError(`${name}: expected one of ${allowed.join(', ')}, got ${String(value)}.`)
}

export function standardSchema(where: string, schema: EventSchema | undefined): void {
  const standard: Partial<EventSchema['~standard']> | undefined = schema?.['~standard']
  if (standard?.version === 1 && typeof standard.validate === 'function') return
  throw new OptionError(`${where}: expected a Standard Schema, such as one of zod.`)
}

export function onlyFields(where: string, value: object, known: readonly string[], page: string): void {
  const other = Object.keys(value).find((name) => !known.includes(name))
  if (other !== undefined) throw new OptionError(`${where}.${other}: there is no such option. See docs/${page}.md.`)
}
