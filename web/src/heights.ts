/** How high messages will be about that are not drawn. */
import { type ShownMessage, textOf } from 'holdfast/client'
import type { Group } from './groups.ts'

const linePx = 26
const lineLength = 80
const aroundPx = 72

/** In px. Of thousands, those before the reader are asked for with each frame. */
export function guessedHeight(group: Group): number {
  const known = guessed.get(group)
  if (known !== undefined) return known
  const height = group.messages.reduce((sum, message) => sum + heightOf(message), 0)
  guessed.set(group, height)
  return height
}
const guessed = new WeakMap<Group, number>()

function heightOf({ parts }: ShownMessage): number {
  const lines = textOf(parts).split('\n')
  return aroundPx + linePx * lines.reduce((sum, line) => sum + Math.max(0.5, Math.ceil(line.length / lineLength)), 0)
}
