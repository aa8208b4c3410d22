import fc from 'fast-check'
import { expect, it } from 'vitest'
import { afterError, retryPolicy } from '../../src/core/backoff.ts'
import { failureOf, ReplyError, type TurnCode, turnErrors } from '../../src/core/errors.ts'

const policy = { ...retryPolicy, attemptsMax: 3 }
const codes = Object.keys(turnErrors) as TurnCode[]
const anyCode = fc.constantFrom(...codes)
const transientCode = fc.constantFrom(...codes.filter((code) => turnErrors[code].transient))
const anyRandom = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
const errorOf = (code: TurnCode, retryAfterMs?: number) => new ReplyError(code, 'detail', { retryAfterMs })

it('waits by full jitter: anything from nothing to a ceiling that doubles with each failure, up to 30 s', () => {
  const many = { ...policy, attemptsMax: 100 }
  fc.assert(
    fc.property(transientCode, fc.nat(98), anyRandom, (code, failures, random) => {
      const ceiling = Math.min(30_000, 500 * 2 ** failures)
      expect(afterError(errorOf(code), failures, many, random)).toEqual({ retryMs: Math.round(random * ceiling) })
    }),
  )
  expect(afterError(errorOf('provider_overloaded'), 0, policy, 0)).toEqual({ retryMs: 0 })
  expect(afterError(errorOf('provider_overloaded'), 1, policy, 0.9999)).toEqual({ retryMs: 1_000 })
})

it('never comes back before the provider wants it but a little later, and fails where that is more than a minute', () => {
  fc.assert(
    fc.property(transientCode, anyRandom, fc.integer({ min: 0, max: 200_000 }), (code, random, retryAfterMs) => {
      const next = afterError(errorOf(code, retryAfterMs), 0, policy, random)
      // All whom it refuses are told the same, and must not come back at the same moment.
      if (retryAfterMs <= 60_000) expect(next).toEqual({ retryMs: retryAfterMs + Math.round(random * 500) })
      else expect(next).toMatchObject({ failure: { code, retryAfterMs } })
    }),
  )
})

it('gives a wait that the store takes, whatever an app says when to come back', () => {
  fc.assert(
    fc.property(
      transientCode,
      anyRandom,
      fc.oneof(fc.double(), fc.double({ min: 0, max: 70_000 })),
      (code, random, wanted) => {
        const next = afterError(errorOf(code, wanted), 0, policy, random)
        if ('failure' in next) expect(wanted).toBeGreaterThan(60_000)
        else expect(Number.isInteger(next.retryMs) && next.retryMs >= 0 && next.retryMs <= 60_500).toBe(true)
      },
    ),
    { numRuns: 1_000 },
  )
})

it('ends the round as internal for a code that there is not, and the error says which there are', () => {
  for (const code of ['rate_limited', 'toString', undefined, 7n]) {
    const error = errorOf(code as TurnCode)
    expect(error).toMatchObject({ code: 'internal', message: expect.stringContaining('provider_rate_limited, ') })
    expect(afterError(error, 0, policy, 0)).toMatchObject({ failure: { code: 'internal' } })
  }
})

it('tries no more than the attempts that a round has, and not at all what is not transient', () => {
  fc.assert(
    fc.property(
      anyCode,
      fc.nat(6),
      fc.integer({ min: 1, max: 5 }),
      anyRandom,
      (code, failures, attemptsMax, random) => {
        const next = afterError(errorOf(code), failures, { ...policy, attemptsMax }, random)
        const again = turnErrors[code].transient && failures + 1 < attemptsMax
        if (again) expect(next).toHaveProperty('retryMs')
        else
          expect(next).toEqual({
            failure: failureOf(code),
          })
      },
    ),
  )
})
