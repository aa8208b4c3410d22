import { describe, expect, it } from 'vitest'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import { createFold } from '../../src/core/fold.ts'
import type { Message } from '../../src/core/message.ts'
import { textOf } from '../../src/core/parts.ts'
import type { SdkMajor } from '../../src/core/ui-chunks.ts'
import { createUiFollower, type UiFollower } from '../../src/core/ui-follower.ts'

const majors: SdkMajor[] = [6, 7]
const asked = { error: null }
const text = (said: string): Part => ({ type: 'text', text: said, state: 'done' })
const start: Chunk[] = [{ type: 'start-step' }, { type: 'text-start', id: 't' }]
const delta = (said: string): Chunk => ({ type: 'text-delta', id: 't', delta: said })

function message(status: Message['status'], parts: Part[]): Message {
  const nothing = { metadata: null, error: null, author: null, branch: null, model: null }
  const times = { createdAt: '', updatedAt: '' }
  const numbers = { seq: 1, round: 1, inputTokens: null, outputTokens: null }
  return {
    id: 'a',
    sessionId: 's',
    role: 'assistant',
    lane: 'main',
    repliesTo: 'u',
    status,
    parts,
    ...nothing,
    ...times,
    ...numbers,
  }
}

/** What a client shows of the chunks that it was told, and its last one. */
function shown(major: SdkMajor, act: (follower: UiFollower, tell: (chunks: Chunk[]) => void) => void) {
  const follower = createUiFollower('a', major)
  const told: Chunk[] = []
  act(follower, (chunks) => told.push(...chunks))
  const fold = createFold()
  for (const chunk of told) fold.push(chunk)
  return { text: textOf(fold.parts()), types: told.map(({ type }) => type), isOver: follower.isOver }
}
const begin = (follower: UiFollower, attempt = 1) =>
  follower.event('attempt.started', { replyId: 'a', attempt, base: [] })
const complete = (follower: UiFollower, parts: Part[]) =>
  follower.event('message.ai_response', { message: message('complete', parts) })
const step: Part = { type: 'step-start' }

describe.each(majors)('a reply followed for AI SDK %i', (major) => {
  it('of what was there before only the last attempt is told: a question that was answered is not asked again', () => {
    const call = (fields: object): Part => ({ type: 'tool-book', toolCallId: 'k1', input: {}, ...fields })
    const question = call({ state: 'approval-requested', approval: { id: 'q' } })
    const refused = call({ state: 'approval-responded', approval: { id: 'q', approved: false } })
    const denied = call({ state: 'output-denied', approval: { id: 'q', approved: false } })
    const started = (attempt: number, base: Part[]) => ({ replyId: 'a', attempt, base })
    const { types, text: said } = shown(major, (follower, tell) => {
      // Its process died before the question was stored, so it stands in what the next one began with.
      tell(follower.event('attempt.started', started(2, [step, question])))
      tell(follower.event('turn.waiting', { message: message('streaming', [step, question]) }))
      tell(follower.event('approval.answered', { messageId: 'a', kind: 'approval', turn: {}, part: refused }))
      tell(follower.event('attempt.started', started(3, [step, refused])))
      tell(follower.event('attempt.started', started(4, [step, denied])))
      tell(follower.chunks([...start, delta('No.')]))
      tell(follower.caughtUp())
      tell(complete(follower, [step, denied, step, text('No.')]))
    })
    expect(types.filter((type) => type === 'error')).toEqual([])
    expect(types.at(-1)).toBe('finish')
    expect(said).toBe('No.')
  })

  it('what was there before is told joined and without what has passed, what comes after as it is', () => {
    const passing: Chunk = { type: 'data-progress', data: 1, transient: true }
    const { text: said, types } = shown(major, (follower, tell) => {
      tell(begin(follower))
      tell(follower.chunks([...start, delta('one'), passing]))
      tell(follower.caughtUp())
      tell(follower.chunks([delta(' two'), passing]))
      tell(complete(follower, [step, text('one two')]))
    })
    expect(said).toBe('one two')
    expect(types.filter((type) => type === 'data-progress')).toHaveLength(1)
    expect(types.at(-1)).toBe('finish')
  })

  it('read anew in the middle of an attempt waits for what stands for it, and tells only the rest', () => {
    const {
      text: said,
      types,
      isOver,
    } = shown(major, (follower, tell) => {
      tell(begin(follower))
      tell(follower.caughtUp())
      tell(follower.chunks([...start, delta('one')]))
      const open = { attempt: 1, chunks: [...start, delta('one two')] }
      tell(follower.stands(asked, message('streaming', []), open))
      tell(follower.chunks([delta(' three')]))
      tell(complete(follower, [step, text('one two three')]))
    })
    expect([said, isOver]).toEqual(['one two three', true])
    expect(types.filter((type) => type === 'text-start')).toHaveLength(1)
    expect(types).not.toContain('error')
  })

  it('read anew before anything was told, or after the end, is told whole', () => {
    const open = { attempt: 2, chunks: [...start, delta('two')] }
    const middle = shown(major, (follower, tell) => {
      tell(follower.stands(asked, message('streaming', [step, text('one')]), open))
      tell(follower.chunks([delta(' three')]))
      tell(complete(follower, [step, text('one'), step, text('two three')]))
    })
    expect(middle.text).toBe('one\n\ntwo three')
    const ended = shown(major, (follower, tell) => tell(follower.stands(asked, message('complete', [text('all')]))))
    expect(ended).toMatchObject({ text: 'all', isOver: true })
    const failed = shown(major, (follower, tell) => {
      const error = { code: 'no_progress' as const, error: 'It stopped.', canRetry: true }
      tell(follower.stands({ error }, message('failed', [text('half')])))
    })
    expect(failed).toMatchObject({ text: 'half', isOver: true })
    expect(failed.types.at(-1)).toBe('error')
  })

  it('a message that another reply took in ends without a message of its own; other rounds say nothing', () => {
    const { types, isOver } = shown(major, (follower, tell) => {
      tell(follower.event('attempt.started', { replyId: 'of another round', attempt: 1, base: [] }))
      tell(follower.event('attempt.ended', {}))
      tell(
        follower.event('message.stopped', { message: { ...message('stopped', []), id: 'other' }, reason: 'steered' }),
      )
    })
    expect([types, isOver]).toEqual([['abort'], true])
  })
})
