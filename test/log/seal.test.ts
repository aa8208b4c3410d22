import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createSeal } from '../../src/log/seal.ts'

const text = fc.string({ unit: 'grapheme', maxLength: 200 })

test('what one process seals another one of the same secret opens, once and in order (I15)', () => {
  fc.assert(
    fc.property(fc.array(text, { minLength: 1, maxLength: 5 }), (bodies) => {
      const seal = createSeal('secret', 'one')
      const other = createSeal('secret', 'two')
      const payloads = bodies.map((body) => seal.close(body))
      expect(payloads.map((payload) => other.open(payload))).toEqual(bodies.map((body) => ({ from: 'one', body })))
      expect(payloads.map((payload) => other.open(payload))).toEqual(bodies.map(() => null))
    }),
  )
})

test('what was changed, shortened, or sealed with another secret or for another process opens to nothing (I15)', () => {
  const payload = createSeal('secret', 'one').close('what is said')
  const [from, number, sealed] = payload.split('.')
  for (let at = 0; at < payload.length; at++) {
    const changed = `${payload.slice(0, at)}${payload[at] === 'A' ? 'B' : 'A'}${payload.slice(at + 1)}`
    // What base64 has at its end says nothing.
    if (at >= payload.length - 3) continue
    expect(createSeal('secret', 'two').open(changed)).toBeNull()
    expect(createSeal('secret', 'two').open(payload.slice(0, at))).toBeNull()
  }
  for (const odd of [
    `two.${number}.${sealed}`,
    `${from}.${number}z.${sealed}`,
    `${from}.zzzzzzzzzzzz.${sealed}`,
    '',
    '..',
  ]) {
    expect(createSeal('secret', 'two').open(odd)).toBeNull()
  }
  expect(createSeal('other', 'two').open(payload)).toBeNull()
  expect(createSeal('secret', 'two').open(payload)).toEqual({ from: 'one', body: 'what is said' })
})
