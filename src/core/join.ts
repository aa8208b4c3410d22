import type { Chunk } from './chunk.ts'

/**
 * Adjacent deltas of one text, reasoning or tool input are the same reply when they are one delta, and then take one
 * row, one frame and one render. Folding joined chunks gives what folding the originals gives.
 */
export function joinDeltas(chunks: readonly Chunk[]): Chunk[] {
  const joined: Chunk[] = []
  for (const chunk of chunks) {
    const last = joined.at(-1)
    if (last !== undefined && canJoin(last, chunk)) joined[joined.length - 1] = join(last, chunk)
    else joined.push(chunk)
  }
  return joined
}

/** Whether `b`, coming right after `a`, only lengthens what `a` says. */
export function canJoin(a: Chunk, b: Chunk): boolean {
  // Anything beside type, id and text, such as provider metadata, has a meaning of its own at its own place.
  return continues(a, b) && hasThreeFields(b)
}

/** Asked for every token: a third of what `Object.keys` costs. */
function hasThreeFields(chunk: object): boolean {
  let fields = 0
  for (const _ in chunk) if (++fields > 3) return false
  return fields === 3
}

function continues(a: Chunk, b: Chunk): boolean {
  switch (b.type) {
    case 'text-delta':
    case 'reasoning-delta':
      return a.type === b.type && a.id === b.id
    case 'tool-input-delta':
      return a.type === b.type && a.toolCallId === b.toolCallId
    default:
      return false
  }
}

/** One new delta for both. To be called only where `canJoin(a, b)`; throws otherwise. */
export function join(a: Chunk, b: Chunk): Chunk {
  if (a.type === 'tool-input-delta' && b.type === a.type) {
    return { ...a, inputTextDelta: a.inputTextDelta + b.inputTextDelta }
  }
  if ((a.type === 'text-delta' || a.type === 'reasoning-delta') && b.type === a.type) {
    return { ...a, delta: a.delta + b.delta }
  }
  throw new TypeError(`A ${b.type} cannot be joined to a ${a.type}. Ask canJoin first.`)
}
