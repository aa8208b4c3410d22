/** Seeded schedules; a seed that failed once is kept in `known` and runs first. */
import { describe, expect, it } from 'vitest'
import { claimingNext } from '../../src/core/claiming.ts'
import { encodeCursor } from '../../src/core/cursor.ts'
import { follow } from '../../src/core/following.ts'
import { kill, leaseMs, type Parts, type Plan, pollMs, realParts, simulate, type World } from './simulation.ts'
import * as store from './store.ts'

const known: number[] = []
const noCommands = { stops: 0, interrupts: 0, retries: 0 }

/** Plans differ from seed to seed, so that what is rare in one is common in another. */
function planOf(seed: number): Plan {
  return {
    ...{ seed, processes: 1 + (seed % 3), turns: 2 + (seed % 5), chaosMs: 12_000 },
    ...{ databaseFails: (seed % 4) * 8, claimsLost: (seed % 3) * 10, deaths: (seed % 5) * 2, pauses: (seed % 7) * 2 },
    ...{ wakeupsLost: seed % 3 === 0 ? 100 : (seed % 4) * 25, stops: (seed % 2) * 30, errors: (seed % 6) * 10 },
    ...{ interrupts: (seed % 4) * 20, retries: (seed % 5) * 20 },
  }
}

function firstFailing(seeds: number, parts?: Parts): { seed: number; problems: string[] } | null {
  for (let seed = 0; seed < seeds; seed++) {
    const { problems } = simulate(planOf(seed), parts)
    if (problems.length > 0) return { seed, problems }
  }
  return null
}

it('keeps its promises in 2,000 schedules of faults (I1, I2, I3, I5, I8, I9, I10, I11)', () => {
  const total: Partial<World['count']> = {}
  for (const seed of [...known, ...Array(2_000).keys()]) {
    const { problems, count } = simulate(planOf(seed))
    expect({ seed, problems }).toEqual({ seed, problems: [] })
    for (const [name, n] of Object.entries(count)) {
      total[name as keyof typeof count] = (total[name as keyof typeof count] ?? 0) + n
    }
  }
  expect(Object.entries(total).filter(([, n]) => n < 100)).toEqual([])
}, 120_000)

it('runs the turn of a dead process again within lease and poll, with every wakeup lost (I8, I9)', () => {
  let takenOver = 0
  for (let seed = 0; seed < 300; seed++) {
    const calm = { ...noCommands, databaseFails: 0, claimsLost: 0, deaths: 0, pauses: 0, wakeupsLost: 100, errors: 0 }
    const running: { turnId: string; attempt: number }[] = []
    let diedAtMs = 0
    const world = simulate({ ...calm, seed, processes: 2, turns: 6, chaosMs: 6_000 }, realParts, (it) => {
      const dieAtMs = 500 + ((seed * 37) % 5_000)
      it.queue.push({
        ...{ atMs: dieAtMs, order: -1 },
        run: () => {
          diedAtMs = it.nowMs
          const mine = store.turnsOf(it.model).filter((turn) => turn.runner?.startsWith('p0 '))
          running.push(...mine.map(({ id, attempt }) => ({ turnId: id, attempt })))
          kill(it, it.processes[0]!, 50_000)
        },
      })
    })
    expect(world.problems).toEqual([])
    for (const { turnId, attempt } of running) {
      takenOver++
      // The answers to a poll and to the claim take their time, too.
      const again = world.startedAtMs.get(`${turnId} ${attempt + 1}`)
      const outcomeCame =
        again === undefined && store.turnsOf(world.model).some((turn) => turn.id === turnId && turn.attempt === attempt)
      if (!outcomeCame) expect(again! - diedAtMs).toBeLessThanOrEqual(leaseMs + pollMs + 200)
    }
  }
  expect(takenOver).toBeGreaterThan(100)
}, 60_000)

it('runs every turn at its first attempt, whatever answers to claims are lost and however late they are done', () => {
  let again = 0
  for (let seed = 0; seed < 500; seed++) {
    const world = simulate(lossyPlanOf(seed))
    expect({ seed, problems: lossyProblems(world) }).toEqual({ seed, problems: [] })
    again += world.count.again
  }
  expect(again).toBeGreaterThan(500)
}, 60_000)

function lossyProblems({ problems, model }: World): string[] {
  const takenOver = store.turnsOf(model).filter(({ attempt }) => attempt > 1)
  return [...problems, ...takenOver.map(({ position }) => `turn ${position} was taken over`)]
}

/** Nothing fails but claims: one in three. */
function lossyPlanOf(seed: number): Plan {
  const calm = { ...noCommands, databaseFails: 0, deaths: 0, pauses: 0, wakeupsLost: 50, errors: 0 }
  return { ...calm, claimsLost: 33, seed, processes: 2, turns: 6, chaosMs: 8_000 }
}

describe('the simulation catches', () => {
  const withStore = (changed: Partial<Parts['store']>): Parts => ({
    ...realParts,
    store: { ...realParts.store, ...changed },
  })
  const mutants: Record<string, Parts> = {
    'an append without a fence': withStore({
      append: (model, rows, lease) => {
        const turn = store.turnOf(model, rows[0]!)!
        const before = { attempt: turn.attempt, state: turn.state }
        Object.assign(turn, { attempt: rows[0]!.attempt, state: 'running' })
        const answer = store.append(model, rows, lease)
        Object.assign(turn, before)
        return answer
      },
    }),
    'a claim that takes live leases': withStore({
      claim: (model, ask) => {
        for (const turn of store.turnsOf(model)) if (turn.state === 'running') turn.leaseUntilMs = 0
        return store.claim(model, ask)
      },
    }),
    'a stop that overwrites an outcome': withStore({
      stop: (model, key, ask) => {
        const turn = store.turnOf(model, key)!
        if (turn.state === 'complete') turn.state = 'running'
        return store.stop(
          model,
          { ...key, attempt: turn.attempt },
          { ...ask, isOpen: turn.open, nextIndex: turn.open ? store.nextIndexOf(turn) : 0 },
        )
      },
    }),
    'a retry that ignores its round': withStore({
      retry: (model, key, ask) => store.retry(model, key, { ...ask, round: null }),
    }),
    'a stop that ignores its round': withStore({
      stop: (model, key, ask) => store.stop(model, key, { ...ask, round: store.turnOf(model, key)!.round }),
    }),
    'an interrupt that is not marked in the same transaction as the message': withStore({
      accept: (model, ask) => {
        const begun = ask.whenBusy === 'interrupt' ? store.begunIn(model, ask) : []
        const interrupted = begun.map(({ messageId, round }) => ({ messageId, round }))
        const answer = store.accept(model, { ...ask, whenBusy: 'queue' })
        return answer.outcome === 'created' ? { ...answer, interrupted } : answer
      },
    }),
    'an accept that is acknowledged before it is stored': withStore({
      accept: (model, ask) => {
        const answer = store.accept(model, ask)
        if (answer.outcome === 'created' && ask.messageId === 'm1') store.sessionOf(model, ask.sessionId).turns.pop()
        return answer
      },
    }),
    'a blind retry after an append whose answer was lost': {
      ...realParts,
      nextIndexAfterUnknown: (_, believed) => believed + 1,
    },
    'a runner that claims only when it is woken': {
      ...realParts,
      claimingNext: (state, input, nowMs) =>
        input.type === 'timer' ? [] : claimingNext(state, input, nowMs).filter(({ type }) => type !== 'timer'),
    },
    'a runner that never takes over': {
      ...realParts,
      claimingNext: (state, input, nowMs) =>
        claimingNext(state, input, nowMs).map((effect) =>
          effect.type === 'claim' ? { ...effect, takeExpired: false } : effect,
        ),
    },
    'a follower whose cursors lag behind what was sent': {
      ...realParts,
      follow: (following, input) => {
        const before = encodeCursor(following)
        return follow(following, input).map((effect) =>
          effect.type === 'show'
            ? { ...effect, items: effect.items.map((item) => ({ ...item, cursor: before })) }
            : effect,
        )
      },
    },
    'a follower that reads no more after a read that failed': {
      ...realParts,
      follow: (following, input) => (input.type === 'read-failed' ? [] : follow(following, input)),
    },
  }

  it.each(Object.entries(mutants))(
    '%s',
    (_, parts) => {
      expect(firstFailing(300, parts)).not.toBeNull()
    },
    60_000,
  )
})

describe('where claims are lost the simulation catches', () => {
  const mutants: Record<string, Parts> = {
    'a runner that asks for nothing again': {
      ...realParts,
      claimingNext: (state, input, nowMs) =>
        claimingNext(state, input.type === 'claim-lost' ? { type: 'claim-failed' } : input, nowMs),
    },
    'a runner that asks for it once, however late it is done': {
      ...realParts,
      claimingNext: (state, input, nowMs) => {
        if (input.type === 'claimed') state.lost = []
        return claimingNext(state, input, nowMs)
      },
    },
    'a claim that answers it each time': {
      ...realParts,
      store: {
        ...realParts.store,
        claim: (model, ask) => {
          const lost = store.turnsOf(model).filter(({ claim }) => ask.lost.includes(claim!))
          const numbers = lost.map(({ claim }) => claim)
          const answer = store.claim(model, ask)
          for (const [at, turn] of lost.entries()) turn.claim = numbers[at]!
          return answer
        },
      },
    },
  }

  it.each(Object.entries(mutants))('%s', (_, parts) => {
    const seeds = [...Array(100).keys()]
    expect(seeds.some((seed) => lossyProblems(simulate(lossyPlanOf(seed), parts)).length > 0)).toBe(true)
  })
})
