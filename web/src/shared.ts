/** What a message of a person and a reply are drawn from, both. */
import type { ShownMessage } from 'holdfast/client'
import type { Direction } from './branches.tsx'
import type { Commands } from './commands.ts'
import type { Possible } from './possible.ts'

export type Shared = {
  message: ShownMessage
  can: Possible
  commands: Commands
  /** A command took away what had the focus. */
  onDone(): void
  onSelect(messageId: string, by: Direction): Promise<unknown>
}

/** What may be done is found out anew with each frame, and is mostly the same. */
export function isSame(before: Shared, now: Shared): boolean {
  const areSame = <T extends object>(a: T, b: T) =>
    (Object.keys(b) as (keyof T)[]).every((key) => key === 'can' || Object.is(a[key], b[key]))
  return areSame(before, now) && areSame(before.can, now.can)
}
