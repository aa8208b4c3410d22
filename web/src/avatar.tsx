/** The circle that stands for somebody, and whether they are there. */
import { initialsOf } from './people.ts'

export type There = 'here' | 'away' | 'gone'
export const thereWords: { [there in There]: string } = { here: 'here', away: 'away', gone: 'not here' }

const tones = 4

/** The same for the same person, on each device. */
const toneOf = (id: string) => [...id].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 9973, 7) % tones

/** Says nothing to a screen reader: it stands beside a name. `there` null: nobody need be told. */
export const Avatar = ({ userId, there }: { userId: string; there: There | null }) => (
  <span className={`avatar is-tone-${toneOf(userId)}`} aria-hidden="true">
    {initialsOf(userId)}
    {there !== null && there !== 'gone' && <span className={`there is-${there}`} />}
  </span>
)
