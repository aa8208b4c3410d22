import { describe, expect, test } from 'vitest'
import { demoReply } from '../../src/reply/demo.ts'
import { deltasOf, userMessage, written } from './writers.ts'

const fast = demoReply({ wordsPerSecond: 1_000_000 })

async function answerTo(text: string, attempt = 1) {
  const message = userMessage(text)
  const { chunks, usage, error } = await written(fast, { message, messages: [message], attempt })
  return { text: deltasOf(chunks), usage, error }
}

test('the demo model says what it is, how to set a key, and what it heard', async () => {
  const { text, error } = await answerTo('What is a lease?')
  expect(error).toBeUndefined()
  expect(text).toContain('I am the demo model')
  expect(text).toContain('`OPENAI_API_KEY` or `ANTHROPIC_API_KEY`')
  expect(text).toContain('> What is a lease?')
})

test('the demo model gives the same words for the same message', async () => {
  for (const text of ['Hello', 'long', 'slow', '', '🌍\n\n```js\n1\n```']) {
    expect((await answerTo(text)).text).toBe((await answerTo(text)).text)
  }
})

test('the demo model reports what it used', async () => {
  const { usage } = await answerTo('Two words')
  expect(usage).toMatchObject([{ model: 'demo', inputTokens: 2, finishReason: 'stop' }])
})

describe('asked to be', () => {
  test('slow, it numbers sixty lines that take about a minute at its usual pace', async () => {
    const { text } = await answerTo('Slow!')
    const numbers = [...text.matchAll(/^(\d+)\. /gm)].map(([, number]) => Number(number))
    expect(numbers).toEqual(Array.from({ length: 60 }, (_, index) => index + 1))
    const seconds = text.trim().split(/\s+/).length / 20
    expect(seconds).toBeGreaterThan(50)
    expect(seconds).toBeLessThan(90)
  })

  test('long, it writes headings, lists, tables and code', async () => {
    const { text } = await answerTo('long')
    for (const mark of ['# ', '## 4.', '* a first', '| Step |', '```ts']) expect(text).toContain(mark)
    expect(text.split('\n\n').length).toBeGreaterThan(15)
  })

  test('failing, it breaks off in each attempt as an overloaded provider does', async () => {
    for (const attempt of [1, 2, 3]) {
      const { text, error } = await answerTo('fail', attempt)
      expect(error).toMatchObject({ code: 'provider_overloaded' })
      expect(text).toMatch(/^I am the demo model/)
    }
  })

  test('failing once, its second attempt is whole', async () => {
    expect((await answerTo('Fail once.', 1)).error).toMatchObject({ code: 'provider_overloaded' })
    const { text, error } = await answerTo('Fail once.', 2)
    expect(error).toBeUndefined()
    expect(text).toContain('The first attempt failed, as you asked.')
  })
})

test('an abort ends the demo model between two words', async () => {
  const abort = new AbortController()
  const onChunk = () => abort.abort()
  const { chunks, error } = await written(demoReply(), { signal: abort.signal, onChunk })
  expect(error).toBeUndefined()
  expect(chunks.map(({ type }) => type)).not.toContain('finish')
})
