import type { Json } from './json.ts'

/**
 * What the app may call its own events: words joined by dots, as in `partner.signed_compact`. Names without a dot are kept for
 * frames that are no events (`chunk`, `typing`), of today and later; these beginnings and names are ours.
 */
const form = /^[A-Za-z][\w-]*(\.[\w-]+)+$/
const nameCharactersMax = 100
const ownBeginnings = ['message.', 'turn.', 'attempt.', 'approval.', 'branch.', 'member.', 'holdfast.']
const ownNames = ['session.updated', 'session.deleted', 'session.changed']

/** Why this cannot be the name of an app's event, as the end of a sentence that begins with it. Null: it can. */
export function wrongAppEvent(name: string): string | null {
  if (name.length > nameCharactersMax || !form.test(name)) {
    return `expected words joined by dots, as in partner.signed_compact, of A-Z a-z 0-9 _ - and at most ${nameCharactersMax} characters`
  }
  if (ownNames.includes(name) || ownBeginnings.some((beginning) => name.startsWith(beginning))) {
    return 'expected a name of your own: this one is Holdfast’s'
  }
  return null
}

/**
 * Says what an event's data may be: a Standard Schema (https://standardschema.dev, `~standard` of version 1), as those of zod,
 * Valibot and ArkType are. What it makes of the data is published, and has to be JSON.
 */
export type EventSchema<Input = unknown, Output = Input> = {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}
type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] }
export type SchemaIssue = {
  readonly message: string
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

/** What is wrong, as a sentence that names the place below `root` and does not repeat the value. */
export function schemaSentence(root: string, issue: SchemaIssue | undefined): string {
  const keys = (issue?.path ?? []).map((step) => String(typeof step === 'object' ? step.key : step))
  const why = issue?.message ?? 'its schema refuses it'
  return `"${[root, ...keys].join('.').slice(0, 200)}": ${why.slice(0, 300)}.`
}
/** By the events' names. */
export type EventSchemas = { readonly [name: string]: EventSchema }

/** What is published as each event, and what those who follow get. */
export type EventTypes = { [name: string]: { input: unknown; output: unknown } }
export type AnyEvents = { [name: string]: { input: Json; output: Json } }
/** Where none are declared, any may be published. */
export type EventsOf<Schemas extends EventSchemas> = string extends keyof Schemas
  ? AnyEvents
  : { [Name in keyof Schemas & string]: TypesOf<Schemas[Name]> }
type TypesOf<Schema extends EventSchema> =
  NonNullable<Schema['~standard']['types']> extends {
    input: infer Input
    output: infer Output
  }
    ? { input: Input; output: Output }
    : AnyEvents[string]
