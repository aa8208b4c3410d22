/**
 * FP1 at every named point of tool calls and anywhere else, many seeded runs at a time (I2, I3, I7, I9): a tool that is not
 * idempotent never starts twice without somebody's word, and what has ended never starts again. Runners are killed one
 * after the other, each at a point of its own or at some moment, and each kill hits whatever turns it runs then.
 * HOLDFAST_TOOL_RUNS: how many runs of each kind.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { createView, type LogFrame, type Shown, type Snapshot } from '../../src/core/view.ts'
import type { Frame } from '../support/client.ts'
import { queryOnce } from '../support/postgres.ts'
import { seeded } from '../support/random.ts'
import type { TestServer } from '../support/server.ts'
import { sdkChat } from '../use-chat/sdk.ts'
import { openScene, type Scene } from './scene.ts'
import { answerAll, isAnswered, patienceMs } from './tool-page.ts'
import {
  essenceOf,
  foldedOf,
  keptIn,
  type Plan,
  planOf,
  type Random,
  type Row,
  recordsFile,
  recordsIn,
  type Start,
  same,
  untold,
  type Word,
  wrongOf,
} from './tool-plans.ts'

const program = fileURLToPath(new URL('tool-runs-server.mjs', import.meta.url))
const runsOfEach = Number(process.env.HOLDFAST_TOOL_RUNS ?? 100)
const atATime = 30
const points = ['tool.begin', 'tool.begun', 'tool.end', 'tool.ended']
const otherPoints = [
  'checkpoint.send',
  'checkpoint.answered',
  'wait.send',
  'wait.answered',
  'append.answered',
  'claim.taken',
]

/** Where the nth runner dies: at each point of a tool call in turn, at another one, and at some moment of its life. */
function deathOf(nth: number, random: Random): { point?: string; afterMs?: number } {
  const at = points[nth % (points.length + 2)]
  if (at !== undefined) return { point: `${at}:${5 + random(18)}:kill` }
  if (nth % 2 === 0) return { point: `${otherPoints[random(otherPoints.length)]}:${4 + random(8)}:kill` }
  return { afterMs: 1_000 + random(1_500) }
}

/** Three runners at a time, each of which dies and is replaced until the runs are over. Answers where how many died. */
async function keepKilling(scene: Scene, env: Record<string, string>, random: Random, done: AbortSignal) {
  const kills = new Map<string, number>()
  let lives = 0
  const live = async () => {
    const { point, afterMs } = deathOf(lives++, random)
    const points = point === undefined ? [] : [point]
    // It may be gone before it could be heard.
    const runner = await scene.start({ program, points, env }).catch(() => null)
    const ended = new AbortController()
    const until = AbortSignal.any([done, ended.signal])
    const killed =
      afterMs === undefined ? null : pause(afterMs, undefined, { signal: until }).then(() => runner?.kill())
    await Promise.race([runner?.exited, killed?.catch(() => undefined) ?? untilAborted(until), untilAborted(until)])
    ended.abort()
    if (done.aborted) return
    const name = point?.split(':')[0] ?? 'some moment'
    kills.set(name, (kills.get(name) ?? 0) + 1)
  }
  const runners = Array.from({ length: 3 }, async () => {
    while (!done.aborted) await live()
  })
  await Promise.all(runners)
  return kills
}

const untilAborted = (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })

async function openRun(scene: Scene, server: TestServer, plan: Plan, random: Random, major: 6 | 7) {
  const { ann } = scene
  const session = await ann.createSession(plan.run)
  const snapshot = await ann.snapshot(session)
  const watcher = ann.watch(session)
  const page = await sdkChat(major, {
    url: server.url,
    id: session,
    headers: { 'x-ai-sdk': String(major) },
    sendAutomaticallyWhen: isAnswered,
  })
  const over = new AbortController()
  void page.sendMessage({ text: JSON.stringify(plan) })
  const answering = answerAll(page, random, over.signal).catch((error: Error) => error)
  const outcome = await watcher
    .until(({ type }) => outcomes.has(type), patienceMs)
    .finally(() => over.abort(watcher.frames.at(-1)?.type))
    .catch((cause: unknown) => {
      const { status, error, messages } = page
      throw new Error(`${plan.run} has no end: useChat is ${status} (${error}): ${JSON.stringify(messages)}`, { cause })
    })
  const answered = await answering
  await watcher.close()
  const stored = (await ann.snapshot(session)).messages.at(-1)!
  return { plan, outcome, stored, page, watcher, snapshot, answered }
}
const outcomes = new Set(['message.ai_response', 'message.error', 'message.stopped'])
type Run = Awaited<ReturnType<typeof openRun>>

/** What our own page shows when it has taken every frame. */
function viewAfter({ snapshot, watcher }: Run): Shown | 'gap' {
  const withCursor = watcher.frames.filter(({ cursor }) => cursor !== undefined) as unknown as LogFrame[]
  const view = createView({ ...(snapshot as never as Snapshot), cursor: withCursor[0]!.after })
  return withCursor.every((frame) => view.take(frame)) ? view.now() : 'gap'
}

function problemsOf(run: Run): string[] {
  const { plan, outcome, stored, page, watcher, answered } = run
  const wrong = watcher.problems.map((problem) => `${plan.run}: ${problem}`)
  const is = (holds: boolean, what: string) => void (holds || wrong.push(`${plan.run}: ${what}`))
  const ended = watcher.frames.filter(({ type }) => outcomes.has(type))
  is(ended.length === 1, `it has ${ended.length} outcomes`)
  is(same(outcome.data.message.parts, stored.parts), 'the outcome is not what is stored')
  const view = viewAfter(run)
  is(view !== 'gap' && same(view.messages.at(-1)!.parts, stored.parts), 'the page does not show what is stored')
  if (outcome.type !== 'message.ai_response') return wrong
  is(typeof answered === 'number', `useChat says ${String(answered)}`)
  is(
    same(essenceOf(page.messages.at(-1)!.parts), essenceOf(stored.parts as never)),
    `useChat shows
${JSON.stringify(essenceOf(page.messages.at(-1)!.parts))} and stored is
${JSON.stringify(essenceOf(stored.parts as never))}`,
  )
  const folded = foldedOf(watcher.frames)
  is(folded === null || same(folded, stored.parts), 'the frames do not come to what is stored')
  return [...wrong, ...untold(stored.parts).map((what) => `${plan.run}: ${what}`)]
}

const rowsOf = (database: string) =>
  queryOnce<Row>(
    database,
    `select session_id as run, call_id as "callId", state, output, extract(epoch from ended_at)::float8 * 1000 as "endedAtMs"
       from holdfast.tool_calls`,
  )

test.each(['6', '7', 'own'])(
  'kind %s: killed anywhere, no call starts twice without a word, none that has ended starts again, and all see the same',
  async (kind) => {
    const seed = 20261130 + 1_000 * kind.charCodeAt(0)
    const random = seeded(seed)
    const scene = await openScene()
    const records = recordsFile()
    const env = { KIND: kind, RECORDS: records, HOLDFAST_POLL_MS: '100' }
    const server = await scene.start({ program, env: { ...env, HOLDFAST_ROLES: 'http' } })
    const done = new AbortController()
    const killing = keepKilling(scene, { ...env, HOLDFAST_ROLES: 'runner' }, seeded(seed + 1), done.signal)

    const plans = Array.from({ length: runsOfEach }, (_, at) => planOf(`r${at}`, random))
    const runs: Run[] = []
    const left = plans.entries()
    const one = async () => {
      for (const [at, plan] of left) {
        const major = kind === '7' || (kind === 'own' && at % 2 === 0) ? 7 : 6
        runs.push(await openRun(scene, server, plan, seeded(seed + 2 + at), major))
      }
    }
    const kills = await Promise.all(Array.from({ length: atATime }, one))
      .finally(async () => {
        done.abort()
        await killing
      })
      .then(() => killing)

    const starts = recordsIn<Start>(records, 'start')
    const words = recordsIn<Word>(records, 'word')
    const rows = await rowsOf(scene.database)
    const ofRun =
      (run: string) =>
      <Each extends { run: string }>(each: Each) =>
        each.run === run
    // Who tries again what has failed in that moment begins another round of it.
    const ofOneRound = runs.filter(({ watcher }) => !watcher.frames.some(({ data }) => data?.turn?.round > 1))
    const wrong = ofOneRound.flatMap((run) => {
      const isIts = ofRun(run.plan.run)
      const parts = run.stored.parts
      const seen = {
        frames: run.watcher.frames,
        parts,
        starts: starts.filter(isIts),
        words: words.filter(isIts),
        rows: rows.filter(isIts),
      }
      return [...problemsOf(run), ...wrongOf(run.plan, seen)]
    })
    const chances = chancesOf(ofOneRound, starts, words, kills)
    process.stdout.write(`tool runs, kind ${kind}: ${JSON.stringify(chances)}\n`)
    expect(wrong).toEqual([])
    const share = runsOfEach / 100
    const wanted = {
      runsHit: 40,
      attemptsCrashed: 50,
      pointsHit: 4,
      keptSteps: 20,
      uncertain: 8,
      asked: 4,
      again: 4,
      compared: 30,
      complete: 60,
    }
    for (const [name, least] of Object.entries(wanted)) {
      expect(chances[name as keyof typeof wanted], `vacuous: ${name}`).toBeGreaterThanOrEqual(Math.floor(least * share))
    }
  },
  170_000,
)

function chancesOf(runs: Run[], starts: Start[], words: Word[], kills: Map<string, number>) {
  const frames = runs.flatMap(({ watcher }) => watcher.frames)
  const crashes = ({ type, data }: Frame) => type === 'attempt.ended' && data.reason === 'crashed'
  const kept = runs.map(({ watcher }) => keptIn(watcher.frames))
  const sum = (numbers: number[]) => numbers.reduce((all, each) => all + each, 0)
  const uncertainAsks = frames.filter(
    ({ type, data }) => type === 'approval.answered' && data.kind === 'uncertain',
  ).length
  return {
    runs: runs.length,
    kills: Object.fromEntries(kills),
    pointsHit: points.filter((name) => kills.has(name)).length,
    runsHit: runs.filter(({ watcher }) => watcher.frames.some(crashes)).length,
    attemptsCrashed: frames.filter(crashes).length,
    keptSteps: sum(kept.map(({ steps }) => steps)),
    keptOpen: sum(kept.map(({ open }) => open)),
    starts: starts.length,
    /** Starts of calls that had started. */
    again: starts.length - new Set(starts.map(({ key }) => key)).size,
    asked: uncertainAsks,
    words: words.length,
    uncertain: uncertainAsks + words.length,
    /** Runs whose every chunk a follower was shown. */
    compared: runs.filter(({ watcher }) => foldedOf(watcher.frames) !== null).length,
    triedAgain: sum(runs.map(({ answered }) => (typeof answered === 'number' ? answered : 0))),
    /** The others failed: their app said so, or three processes died of them in a row. */
    complete: runs.filter(({ outcome }) => outcome.type === 'message.ai_response').length,
  }
}
