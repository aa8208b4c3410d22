import type { Message } from 'holdfast/client'
import type { ReactNode } from 'react'
import { BackIcon, ForwardIcon } from './icons.tsx'

export type Direction = 'previous' | 'next'

type BranchesProps = { message: Message; noun: string; onSelect(messageId: string, by: Direction): void }

/** ‹ 2/3 ›. At an end the button stays, so that the keyboard does not lose its place. */
export function Branches({ message: { id, branch }, noun, onSelect }: BranchesProps) {
  if (branch === null) return null
  const { index, count } = branch
  const button = (by: Direction, icon: ReactNode) => {
    const to = branch[by]
    const label = `${by === 'previous' ? 'Previous' : 'Next'} ${noun}`
    return (
      <button
        type="button"
        className="quiet-button"
        data-branch={`${id} ${by}`}
        aria-label={label}
        aria-disabled={!to}
        onClick={() => to && onSelect(to, by)}
      >
        {icon}
      </button>
    )
  }
  return (
    <fieldset className="branches" aria-label={`${noun} ${index + 1} of ${count}`}>
      {button('previous', <BackIcon />)}
      <span>
        {index + 1}/{count}
      </span>
      {button('next', <ForwardIcon />)}
    </fieldset>
  )
}
