/** Links with which others come into a chat: made, copied, listed, revoked by its owners. */
import type { Member } from 'holdfast/client'
import { type FormEvent, useCallback, useEffect, useState } from 'react'
import { CopyButton } from './code-block.tsx'
import { useCommand } from './commands.ts'
import type { Invite, InviteRole, Membership } from './members.ts'
import { roleNames } from './people.ts'
import { Refused } from './refused.tsx'
import { untilOf } from './times.ts'

const hourMs = 3_600_000
const lastings = [
  { words: 'An hour', ms: hourMs },
  { words: 'A day', ms: 24 * hourMs },
  { words: '7 days', ms: 7 * 24 * hourMs },
  { words: '30 days', ms: 30 * 24 * hourMs },
]
const uses = [1, 5, 25, 100]
const peopleWords = (count: number) => (count === 1 ? '1 person' : `${count} people`)

type InvitesProps = { membership: Membership; members: readonly Member[] }

export function Invites({ membership, members }: InvitesProps) {
  const { isBusy, refusal, give } = useCommand()
  const [asked, setAsked] = useState({ role: 'member' as InviteRole, uses: 1, expiresMs: 7 * 24 * hourMs })
  const [made, setMade] = useState<{ id: string; link: string } | null>(null)
  const [open, setOpen] = useState<readonly Invite[]>([])
  const list = useCallback(
    // Where no answer comes now, the next change asks again.
    () => membership.invites().then(setOpen, () => undefined),
    [membership],
  )
  // Who joins has used one up.
  // biome-ignore lint/correctness/useExhaustiveDependencies: asked anew for each change of who is there
  useEffect(() => void list(), [list, members.length])
  const invite = (event: FormEvent) => {
    event.preventDefault()
    void give(async () => {
      setMade(await membership.invite(asked))
      await list()
    })
  }
  const choose = (change: Partial<typeof asked>) => setAsked({ ...asked, ...change })
  const isMadeOpen = made !== null && open.some(({ id }) => id === made.id)
  return (
    <section className="people-part" aria-label="Invite">
      <h3>Invite with a link</h3>
      <form className="invite" onSubmit={invite}>
        <Choice
          label="May"
          value={asked.role}
          options={[
            ['member', 'read and write'],
            ['reader', 'only read'],
          ]}
          onChoose={(role) => choose({ role: role as InviteRole })}
        />
        <Choice
          label="For"
          value={String(asked.uses)}
          options={uses.map((count) => [String(count), peopleWords(count)])}
          onChoose={(count) => choose({ uses: Number(count) })}
        />
        <Choice
          label="Good for"
          value={String(asked.expiresMs)}
          options={lastings.map(({ words, ms }) => [String(ms), words.toLowerCase()])}
          onChoose={(ms) => choose({ expiresMs: Number(ms) })}
        />
        <button type="submit" className="small-button is-main" aria-disabled={isBusy}>
          Make a link
        </button>
      </form>
      <Refused refusal={refusal} />
      {isMadeOpen && (
        <div className="invite-link">
          <input
            readOnly
            value={made.link}
            aria-label="Invitation link"
            // biome-ignore lint/a11y/noAutofocus: it was just asked for
            autoFocus
            onFocus={({ currentTarget }) => {
              currentTarget.select()
              // Its beginning is in sight.
              requestAnimationFrame(() => currentTarget.scrollTo(0, 0))
            }}
          />
          <CopyButton text={made.link} label="Copy link" />
          <p>
            Whoever has it can join and reads all of this chat. It is shown this once.
            {membership.isDemo && ' To try it here, open it in a private window.'}
          </p>
        </div>
      )}
      {open.length > 0 && (
        <ul className="invites" aria-label="Open invitations">
          {open.map((each) => (
            <OpenInvite key={each.id} invite={each} membership={membership} onRevoked={list} />
          ))}
        </ul>
      )}
    </section>
  )
}

type OpenProps = { invite: Invite; membership: Membership; onRevoked(): Promise<void> }

function OpenInvite({ invite, membership, onRevoked }: OpenProps) {
  const { isBusy, refusal, give } = useCommand()
  const left = invite.uses - invite.used
  const revoke = async () => {
    await membership.revoke(invite.id)
    await onRevoked()
  }
  const words = `${roleNames[invite.role]}, ${peopleWords(left)}${invite.used > 0 ? ' more' : ''}`
  return (
    <li>
      <span>
        {words} <span className="text-mute">until {untilOf(invite.expiresAt)}</span>
      </span>
      <button
        type="button"
        className="text-button"
        aria-label={`Revoke: ${words}`}
        aria-disabled={isBusy}
        onClick={() => void give(revoke)}
      >
        Revoke
      </button>
      <Refused refusal={refusal} />
    </li>
  )
}

type ChoiceProps = {
  label: string
  value: string
  options: readonly (readonly string[])[]
  onChoose(value: string): void
}

const Choice = ({ label, value, options, onChoose }: ChoiceProps) => (
  <label className="invite-choice">
    <span>{label}</span>
    <select className="choice" value={value} onChange={({ currentTarget }) => onChoose(currentTarget.value)}>
      {options.map(([each, words]) => (
        <option key={each} value={each}>
          {words}
        </option>
      ))}
    </select>
  </label>
)
