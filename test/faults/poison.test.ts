/** One odd reply among many: text that Postgres refuses, or that a provider cut inside a character. */
import { expect, test } from 'vitest'
import { openScene, pieces, type Step, slowly, textIn } from './scene.ts'

const bad = 'bad'
const smile = '\u{1F600}'
/** As JSON escapes, as a provider may send half of a character: the wire itself is well-formed UTF-8. */
const rawDelta = (escaped: string): Step => ({
  raw: `data: {"choices":[{"index":0,"delta":{"content":"${escaped}"},"finish_reason":null}]}\n\n`,
})

test('a NUL, a split emoji and a lone surrogate in one of 100 replies harm none of the others', async () => {
  const scene = await openScene()
  const { ann, provider } = scene
  const oddly: Step[] = [
    { text: 'a' },
    rawDelta('\\u0000'),
    { text: 'b' },
    rawDelta('\\ud83d'),
    { pauseMs: 30 },
    rawDelta('\\ude00'),
    { text: 'c' },
    rawDelta('\\ud83d'),
    { text: 'd' },
    rawDelta('\\udc00'),
  ]
  provider.script(({ body }) => {
    const said: string = body.messages.at(-1).content
    return said === bad ? oddly : slowly(pieces(Number(said), 40))
  })
  await scene.start({ env: { HOLDFAST_LEASE_MS: '5000' } })
  const all = Array.from({ length: 100 }, (_, at) => `s${at}`)
  await Promise.all(all.map((id) => ann.createSession(id)))
  await Promise.all(all.map((id, at) => ann.send(id, at === 50 ? bad : String(at), 'm1')))
  const outcomes = await Promise.all(
    all.map(async (id) => {
      const watcher = ann.watch(id)
      const outcome = await watcher.outcome('m1')
      const shown = watcher.text(outcome.data.message.id)
      await watcher.close()
      expect(watcher.problems).toEqual([])
      expect(shown).toBe(textIn(outcome))
      return outcome
    }),
  )
  for (const [at, outcome] of outcomes.entries()) {
    expect(outcome).toMatchObject({ type: 'message.ai_response', data: { message: { status: 'complete' } } })
    expect(textIn(outcome)).toBe(at === 50 ? `a\uFFFDb${smile}c\uFFFDd\uFFFD` : pieces(at, 40).join(''))
  }
  // Nobody had to try again because of it.
  expect(provider.requests).toHaveLength(100)
})
