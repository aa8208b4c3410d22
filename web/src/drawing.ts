/**
 * What takes long to draw is drawn piece by piece: in each frame as much as there is time for, and what is nearest to the
 * middle of the page first.
 */
import { flushSync } from 'react-dom'

const budgetMs = 3

type Piece = { element: Element; draw(): void }
const pieces = new Set<Piece>()
let frame = 0

/** `draw` is called soon. Answers what ends that. */
export function drawSoon(element: Element, draw: () => void): () => void {
  const piece = { element, draw }
  pieces.add(piece)
  if (frame === 0) frame = requestAnimationFrame(step)
  return () => pieces.delete(piece)
}

/** There is enough to draw for now. */
export const isDrawing = () => pieces.size > 0

function step(): void {
  frame = 0
  const middle = innerHeight / 2
  const far = new Map([...pieces].map((piece) => [piece, Math.abs(piece.element.getBoundingClientRect().top - middle)]))
  const began = performance.now()
  for (const [piece] of [...far].sort(([, a], [, b]) => a - b)) {
    pieces.delete(piece)
    flushSync(piece.draw)
    if (performance.now() - began > budgetMs) break
  }
  if (pieces.size > 0) frame = requestAnimationFrame(step)
}
