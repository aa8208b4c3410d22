/**
 * The runner's machine, driven by a shell of the test's own in virtual time: claims are answered with anything that
 * they may be answered with, or fail; wakes and ends of attempts come at any time; the timer may come late, as after
 * a pause. What the machine must not do is judged from outside, not from its state.
 */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type ClaimEffect,
  type ClaimInput,
  type Claiming,
  claimingNext,
  createClaiming,
} from '../../src/core/claiming.ts'

type Machine = typeof claimingNext
type Claim = Extract<ClaimEffect, { type: 'claim' }>
type Step =
  | { what: 'wake' | 'attempt-ended' | 'claim-failed' | 'claim-lost' | 'database-failed' | 'timer' | 'drain' }
  | { what: 'claimed'; taken: number; dueInMs: number | null }
  | { what: 'pass' | 'pause' | 'look-every'; ms: number }

type World = {
  machine: Machine
  state: Claiming
  options: { concurrency: number; pollMs: number }
  nowMs: number
  lookMs: number
  timerAtMs: number | null
  claim: Claim | null
  running: number
  drained: boolean
  /** It was woken, or its timer came, while a claim was under way. */
  owesLook: boolean
  /** Its last claim failed: those who hold leases have not had a poll since the database is back. */
  unanswered: boolean
  /** Numbers of claims whose answers were lost, until 15 s after the next answer (or, draining, until that). */
  lost: { claim: number; untilMs: number }[]
  numbers: Set<number>
  /** It had an error, or was paused, and has not renewed since. */
  owesRenewal: boolean
  lastErrorMs: number
  problems: string[]
  count: {
    claims: number
    full: number
    renewals: number
    tookNoExpired: number
    owedLooks: number
    asksForLost: number
  }
}

const anyOptions = fc.record({
  concurrency: fc.integer({ min: 1, max: 50 }),
  pollMs: fc.integer({ min: 100, max: 2_000 }),
})
const what = <T extends Step['what']>(...names: T[]) => fc.record({ what: fc.constantFrom(...names) })
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: what('wake') },
  { weight: 4, arbitrary: what('attempt-ended') },
  { weight: 4, arbitrary: what('timer') },
  { weight: 1, arbitrary: what('claim-failed', 'claim-lost', 'database-failed') },
  {
    weight: 7,
    arbitrary: fc.record({
      what: fc.constant('claimed' as const),
      taken: fc.oneof(fc.nat(25), fc.constant(20)),
      dueInMs: fc.option(fc.nat(5_000)),
    }),
  },
  { weight: 5, arbitrary: fc.record({ what: fc.constant('pass' as const), ms: fc.nat(700) }) },
  {
    weight: 1,
    arbitrary: fc.record({ what: fc.constant('pause' as const), ms: fc.integer({ min: 2_000, max: 9_000 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ what: fc.constant('look-every' as const), ms: fc.constantFrom(100, 250, 2_000) }),
  },
)
const anySteps = fc.array(anyStep, { minLength: 1, maxLength: 120, size: 'max' })

function input(world: World, it: ClaimInput): void {
  const before = world.claim
  let asked = 0
  for (const effect of world.machine(world.state, it, world.nowMs)) {
    if (effect.type === 'timer') setTimer(world, effect.atMs)
    else {
      asked++
      judgeClaim(world, effect)
    }
  }
  if (asked > 1 || (asked > 0 && before !== null)) world.problems.push('two claims at once')
  judge(world, it)
}

function setTimer(world: World, atMs: number): void {
  if (atMs > world.nowMs + Math.max(world.lookMs, 250)) world.problems.push('a timer later than it is to look')
  if (atMs > world.nowMs + world.options.pollMs) world.problems.push('a timer later than one poll')
  world.timerAtMs = atMs
}

function judgeClaim(world: World, claim: Claim): void {
  const { options, running, nowMs, count } = world
  count.claims++
  const lost = world.lost.filter(({ untilMs }) => nowMs < untilMs).map((each) => each.claim)
  if (lost.some((each) => !claim.lost.includes(each))) world.problems.push('a lost claim is not asked for')
  if (claim.lost.some((each) => !world.lost.some(({ claim: it }) => it === each))) {
    world.problems.push('a claim that was not lost, or is long over, is asked for')
  }
  if (world.numbers.has(claim.claim)) world.problems.push('a number is used twice')
  world.numbers.add(claim.claim)
  if (claim.lost.length > 0) count.asksForLost++
  if (claim.limit === 0 && claim.lost.length === 0) world.problems.push('a claim for nothing')
  if (world.drained && claim.limit > 0) world.problems.push('a claim while draining')
  if (claim.limit > 0 && running + claim.limit > options.concurrency) {
    world.problems.push('a claim beyond concurrency')
  }
  if (world.owesRenewal && !claim.renewFirst) world.problems.push('a claim without renewing first')
  const tooSoon = world.unanswered || nowMs - world.lastErrorMs < options.pollMs
  if (claim.takeExpired && tooSoon) world.problems.push('expired leases taken too soon')
  if (claim.renewFirst) count.renewals++
  if (!claim.takeExpired) count.tookNoExpired++
  world.owesRenewal = false
  world.owesLook = false
  world.claim = claim
}

/** After each input: there is a claim or a timer, and who was woken with room looks. */
function judge(world: World, it: ClaimInput): void {
  if (world.drained) {
    const owes = world.lost.length > 0 && world.claim === null && world.timerAtMs === null
    if (owes) world.problems.push('a lost claim is left alone by who drains')
    return
  }
  if (world.claim === null && world.timerAtMs === null) world.problems.push('neither a claim nor a timer')
  const hasRoom = world.running < world.options.concurrency
  if (!hasRoom) world.count.full++
  const isLook = it.type === 'wake' || it.type === 'look-every'
  if (isLook && hasRoom && world.claim === null) world.problems.push('a wake without a look')
  if (it.type === 'claimed' && world.owesLook && hasRoom) world.problems.push('a wake during a claim was forgotten')
}

function take(world: World, step: Step): void {
  switch (step.what) {
    case 'pass':
    case 'pause':
      pass(world, step.ms)
      break
    case 'wake':
      if (world.claim) world.owesLook = true
      input(world, { type: 'wake' })
      break
    case 'look-every':
      if (world.claim) world.owesLook = true
      world.lookMs = Math.min(step.ms, world.options.pollMs)
      input(world, { type: 'look-every', ms: world.lookMs })
      break
    case 'attempt-ended':
      if (world.running === 0) return
      endAttempt(world)
      break
    case 'timer':
      if (world.timerAtMs !== null) pass(world, Math.max(0, world.timerAtMs - world.nowMs))
      fireTimer(world)
      break
    case 'claimed':
      if (world.claim) claimed(world, world.claim, step)
      break
    case 'claim-failed':
    case 'claim-lost':
      if (world.claim) failed(world, { type: step.what })
      break
    case 'database-failed':
      failed(world, { type: 'database-failed' })
      break
    case 'drain':
      world.drained = true
      world.timerAtMs = null
      input(world, { type: 'drain' })
  }
}

function endAttempt(world: World): void {
  const wasFull = world.running >= world.options.concurrency
  world.running--
  if (wasFull && world.claim) world.owesLook = true
  input(world, { type: 'attempt-ended' })
  const hasRoom = world.running < world.options.concurrency
  if (wasFull && hasRoom && !world.drained && world.claim === null) world.problems.push('room again without a look')
}

/** The timer that was due meanwhile comes at the end: a short pass is a busy loop, a long one a pause. */
function pass(world: World, ms: number): void {
  world.nowMs += ms
  const lateMs = world.nowMs - (world.timerAtMs ?? world.nowMs)
  if (lateMs >= world.options.pollMs) world.owesRenewal = true
  if (lateMs >= 0) fireTimer(world)
}

function fireTimer(world: World): void {
  if (world.timerAtMs === null || world.timerAtMs > world.nowMs) return
  world.timerAtMs = null
  if (world.claim) world.owesLook = true
  input(world, { type: 'timer' })
}

function claimed(world: World, claim: Claim, { taken, dueInMs }: { taken: number; dueInMs: number | null }): void {
  // What a lost claim took comes beyond the limit.
  const took = claim.lost.length > 0 ? Math.min(taken, 25) : Math.min(taken, claim.limit)
  world.claim = null
  const untilMs = world.nowMs + 15_000
  world.lost = world.drained ? [] : world.lost.map((each) => ({ ...each, untilMs: Math.min(each.untilMs, untilMs) }))
  if (world.unanswered) world.lastErrorMs = world.nowMs
  world.unanswered = false
  world.running += took
  const owed = world.owesLook
  if (owed) world.count.owedLooks++
  input(world, { type: 'claimed', taken: took, dueInMs })
  world.owesLook = false
  world.lost = world.lost.filter((each) => world.nowMs < each.untilMs)
  if (took === 0 && !owed && world.claim) world.problems.push('an empty claim is repeated at once')
  if (took === 0 && !owed && world.timerAtMs !== null && world.timerAtMs < world.nowMs + 50) {
    world.problems.push('an empty claim is repeated in a tight loop')
  }
}

function failed(world: World, it: { type: 'claim-failed' | 'claim-lost' | 'database-failed' }): void {
  world.lastErrorMs = world.nowMs
  world.owesRenewal = true
  if (it.type === 'claim-lost') {
    world.lost = [...world.lost, { claim: world.claim!.claim }]
      .map(({ claim }) => ({ claim, untilMs: Infinity }))
      .slice(-100)
  }
  if (it.type !== 'database-failed') {
    world.claim = null
    world.unanswered = true
    world.owesLook = false
  }
  input(world, it)
}

function run(machine: Machine, options: World['options'], steps: Step[]): World {
  const count = { claims: 0, full: 0, renewals: 0, tookNoExpired: 0, owedLooks: 0, asksForLost: 0 }
  const world: World = {
    ...{
      machine,
      options,
      state: createClaiming(options),
      nowMs: 1_000,
      lookMs: options.pollMs,
      timerAtMs: null,
      claim: null,
      running: 0,
    },
    ...{
      drained: false,
      owesLook: false,
      owesRenewal: false,
      unanswered: false,
      lastErrorMs: Number.NEGATIVE_INFINITY,
    },
    ...{ lost: [], numbers: new Set(), problems: [], count },
  }
  input(world, { type: 'start' })
  for (const step of steps) take(world, step)
  return world
}

it('claims within its concurrency, misses no wake, polls, and renews first after an error or a pause (I8, I9)', () => {
  const total = { claims: 0, full: 0, renewals: 0, tookNoExpired: 0, owedLooks: 0, asksForLost: 0 }
  fc.assert(
    fc.property(anyOptions, anySteps, (options, steps) => {
      const { problems, count } = run(claimingNext, options, steps)
      for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += count[name]
      expect(problems).toEqual([])
    }),
    { numRuns: 5_000 },
  )
  expect(Math.min(...Object.values(total))).toBeGreaterThan(1_000)
})

it('claims nothing more once it drains, whatever happens', () => {
  fc.assert(
    fc.property(anyOptions, anySteps, anySteps, (options, before, after) => {
      expect(run(claimingNext, options, [...before, { what: 'drain' }, ...after]).problems).toEqual([])
    }),
    { numRuns: 500 },
  )
})

it('asks for many in claims of twenty, one right after the other', () => {
  const state = createClaiming({ concurrency: 50, pollMs: 1_000 })
  const limits: number[] = []
  let effects = claimingNext(state, { type: 'start' }, 0)
  while (effects[0]?.type === 'claim') {
    limits.push(effects[0].limit)
    effects = claimingNext(state, { type: 'claimed', taken: effects[0].limit, dueInMs: 0 }, 0)
  }
  expect(limits).toEqual([20, 20, 10])
})

describe('the same property catches a machine that', () => {
  const edited =
    (edit: (effect: ClaimEffect, state: Claiming, nowMs: number) => ClaimEffect | null): Machine =>
    (state, it, nowMs) =>
      claimingNext(state, it, nowMs).flatMap((effect) => edit(effect, state, nowMs) ?? [])

  const mutants: Record<string, Machine> = {
    'forgets a wake that comes during a claim': (state, it, nowMs) =>
      it.type === 'wake' && state.claiming ? [] : claimingNext(state, it, nowMs),
    'forgets who is running': (state, it, nowMs) =>
      claimingNext(state, it.type === 'claimed' ? { ...it, taken: 0 } : it, nowMs),
    'always asks for twenty': edited((effect) => (effect.type === 'claim' ? { ...effect, limit: 20 } : effect)),
    'sets no timer after a claim that failed': (state, it, nowMs) => {
      const effects = claimingNext(state, it, nowMs)
      return it.type === 'claim-failed' ? [] : effects
    },
    'waits for the next due time, however far': (state, it, nowMs) => {
      const effects = claimingNext(state, it, nowMs)
      if (it.type !== 'claimed' || it.dueInMs === null) return effects
      const atMs = nowMs + it.dueInMs
      return effects.map((effect) => (effect.type === 'timer' ? { type: 'timer', atMs } : effect))
    },
    'looks again at once after an empty claim': (state, it, nowMs) => {
      const effects = claimingNext(state, it, nowMs)
      if (it.type !== 'claimed' || it.taken > 0) return effects
      return effects.map((effect) => (effect.type === 'timer' ? { type: 'timer', atMs: nowMs } : effect))
    },
    'takes expired leases right after an error': edited((effect) =>
      effect.type === 'claim' ? { ...effect, takeExpired: true } : effect,
    ),
    'takes expired leases with its first claim after an outage': edited((effect, state, nowMs) => {
      if (effect.type !== 'claim' || nowMs - state.lastErrorMs! < state.pollMs) return effect
      return { ...effect, takeExpired: true }
    }),
    'never renews first': edited((effect) => (effect.type === 'claim' ? { ...effect, renewFirst: false } : effect)),
    'renews first only within a poll of an error': (state, it, nowMs) =>
      claimingNext(state, it, nowMs).map((effect) =>
        effect.type === 'claim' && effect.takeExpired ? { ...effect, renewFirst: false } : effect,
      ),
    'does not look when an attempt ends and it was full': (state, it, nowMs) => {
      if (it.type !== 'attempt-ended' || state.running < state.concurrency) return claimingNext(state, it, nowMs)
      state.running--
      return []
    },
    'looks no more often when it is to': (state, it, nowMs) =>
      claimingNext(state, it.type === 'look-every' ? { type: 'wake' } : it, nowMs),
    'forgets a claim that was lost': (state, it, nowMs) =>
      claimingNext(state, it.type === 'claim-lost' ? { type: 'claim-failed' } : it, nowMs),
    'asks for a lost claim once': (state, it, nowMs) => {
      if (it.type === 'claimed') state.lost = []
      return claimingNext(state, it, nowMs)
    },
    'asks for a lost claim for ever': (state, it, nowMs) => {
      const before = state.lost
      const effects = claimingNext(state, it, nowMs)
      if (it.type === 'claimed') state.lost = before
      return effects
    },
    'asks for a lost claim only where it has room': edited((effect) =>
      effect.type === 'claim' && effect.limit === 0 ? null : effect,
    ),
    'starts a second claim on a wake': (state, it, nowMs) => {
      if (it.type === 'wake') state.claiming = false
      return claimingNext(state, it, nowMs)
    },
  }

  it.each(Object.entries(mutants))('%s', (_, mutant) => {
    const property = fc.property(
      anyOptions,
      anySteps,
      (options, steps) => run(mutant, options, steps).problems.length === 0,
    )
    expect(fc.check(property, { numRuns: 2_000, endOnFailure: true }).failed).toBe(true)
  })
})
