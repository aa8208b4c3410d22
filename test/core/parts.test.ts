import { convertToModelMessages as convert6, validateUIMessages as validate6 } from 'ai'
import { convertToModelMessages as convert7, validateUIMessages as validate7 } from 'ai7'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Chunk, Part } from '../../src/core/chunk.ts'
import { createFold } from '../../src/core/fold.ts'
import { closeParts, previewOf, textOf } from '../../src/core/parts.ts'
import { replySteps } from '../support/replies.ts'

const how = { toolErrorText: 'Stopped before it was finished.' }
const partsOf = (chunks: Chunk[]): Part[] => {
  const folded = createFold()
  for (const chunk of chunks) folded.push(chunk)
  return folded.parts()
}
const text = (said: string): Part => ({ type: 'text', text: said, state: 'done' })
const messagesOf = (parts: Part[]) => [{ id: 'a1', role: 'assistant', parts }] as never
const step: Part = { type: 'step-start' }

type Sdk = {
  convert: (messages: never) => Promise<{ content: unknown }[]>
  validate: (input: never) => Promise<unknown>
}
const sdks: [6 | 7, Sdk][] = [
  [6, { convert: convert6, validate: validate6 } as unknown as Sdk],
  [7, { convert: convert7, validate: validate7 } as unknown as Sdk],
]

describe('closeParts', () => {
  it.each(sdks)('makes any cut reply a history that AI SDK %i takes', async (major, sdk) => {
    await fc.assert(
      fc.asyncProperty(replySteps(major), fc.nat(), async (steps, cut) => {
        const chunks = steps.flat().slice(0, cut % (steps.flat().length + 1))
        // Left out: files, as the generated ones have no URL that the SDK could read; and the refusal of a tool that
        // the provider runs, which the SDK gives back as an answer to the question, without a result.
        const isRefusal = (part: Part) => part.state === 'output-denied' && part.providerExecuted === true
        const closed = closeParts(partsOf(chunks), how).filter(
          (part) => !part.type.endsWith('file') && !isRefusal(part),
        )
        const prompt = await sdk.convert(messagesOf([...closed, text('.')]))
        const content = prompt.flatMap((message) => message.content as { type: string; toolCallId: string }[])
        const ids = (type: string) => content.filter((one) => one.type === type).map((one) => one.toolCallId)
        expect(ids('tool-result').sort()).toEqual(ids('tool-call').sort())
        // A refusal in 6 leaves the approval without its answer, which 6 itself does not read back.
        const readable = closed.filter((part) => part.state !== 'output-denied' || major === 7)
        await sdk.validate({ messages: messagesOf([...readable, text('.')]) } as never)
      }),
      { numRuns: 1_000 },
    )
  })

  it('closes twice as once, and leaves what is finished as the same objects', () => {
    fc.assert(
      fc.property(replySteps(7), (steps) => {
        const closed = closeParts(partsOf(steps.flat()), how)
        const again = closeParts(closed, how)
        expect(again.every((part, at) => part === closed[at])).toBe(true)
      }),
      { numRuns: 1_000 },
    )
  })

  it('gives an unfinished call the error text and what it was called with so far', () => {
    const parts = partsOf([
      { type: 'tool-input-start', toolCallId: 'a', toolName: 'read' },
      { type: 'tool-input-delta', toolCallId: 'a', inputTextDelta: '{"file":"no' },
      { type: 'tool-input-start', toolCallId: 'b', toolName: 'read' },
    ])
    expect(closeParts(parts, how)).toEqual([
      {
        type: 'tool-read',
        toolCallId: 'a',
        state: 'output-error',
        input: { file: 'no' },
        errorText: how.toolErrorText,
      },
      { type: 'tool-read', toolCallId: 'b', state: 'output-error', input: {}, errorText: how.toolErrorText },
    ])
  })

  it('drops an open question, keeps a granted one, and turns a refused one into a denial', () => {
    const call = { type: 'tool-pay', toolCallId: 'c', input: {} }
    const asked: Part = { ...call, state: 'approval-requested', approval: { id: 'p' } }
    const granted: Part = { ...call, state: 'approval-responded', approval: { id: 'p', approved: true } }
    const refused: Part = { ...call, state: 'approval-responded', approval: { id: 'p', approved: false } }
    const failed = { ...call, state: 'output-error', errorText: how.toolErrorText }
    expect(closeParts([asked, granted, refused], how)).toEqual([
      failed,
      { ...failed, approval: { id: 'p', approved: true } },
      { ...refused, state: 'output-denied' },
    ])
  })

  it('keeps a preliminary output that was shown', () => {
    const part: Part = { type: 'tool-a', toolCallId: 'c', state: 'output-available', output: 1, preliminary: true }
    expect(closeParts([part], how)[0]).toBe(part)
  })
})

describe('textOf', () => {
  it('sets texts of different steps apart by a blank line', () => {
    expect(textOf([step, text('One.'), step, { type: 'tool-x' }, text('Two.')])).toBe('One.\n\nTwo.')
  })

  it('puts together a sentence that its sources cut', () => {
    expect(textOf([text('Paris is '), { type: 'source-url', url: 'u' }, text('big'), text('.')])).toBe('Paris is big.')
  })
})

describe('previewOf', () => {
  it('is one line of at most 140 units', () => {
    expect(previewOf([text('  Hello,\n\n  you  '), step, text('again')])).toBe('Hello, you again')
    expect(previewOf([text('a'.repeat(200))])).toHaveLength(140)
  })

  it('never ends in half a pair', () => {
    expect(previewOf([text(`${'a'.repeat(139)}😀`)])).toBe('a'.repeat(139))
  })

  it('is null where nothing is said', () => {
    expect(previewOf([step, text(' \n')])).toBeNull()
  })
})
