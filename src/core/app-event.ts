/**
 * What the app may call its own events: words joined by dots, as in `partner.signed_compact`. Names without a dot are kept for
 * frames that are no events (`chunk`, `typing`), of today and later; these beginnings and names are ours.
 */
const form = /^[A-Za-z][\w-]*(\.[\w-]+)+$/
const nameCharactersMax = 100
const ownBeginnings = ['message.', 'turn.', 'attempt.', 'approval.', 'branch.', 'member.']
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
