/** What an app answers may be anything: of a device only what is one is kept. */
import type { PushDevice } from '../core/pushing.ts'

/** Null: it is none. One of these must not keep the others of its user from being told. */
export function deviceOf(answered: unknown): PushDevice | null {
  const { kind, token, subscription, locale } = fieldsOf(answered)
  const language = isText(locale, 100) ? { locale } : {}
  if (kind === 'expo') return isText(token, 250) ? { kind, token, ...language } : null
  if (kind !== 'web') return null
  const { endpoint, keys } = fieldsOf(subscription)
  const { p256dh, auth } = fieldsOf(keys)
  if (!isText(endpoint, 2_048) || !isText(p256dh, 100) || !isText(auth, 100)) return null
  return { kind, subscription: { endpoint, keys: { p256dh, auth } }, ...language }
}

function fieldsOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}

/** Of printable ASCII, as all of these are: the database takes no NUL. */
function isText(value: unknown, charactersMax: number): value is string {
  return typeof value === 'string' && value.length <= charactersMax && /^[ -~]+$/.test(value)
}
