/** `holdfast retry`, `stop`, `pause`, `resume`: what an operator does after an outage, or before a deploy. */

import { type ArgsDef, defineCommand } from 'citty'
import { v7 as uuidv7 } from 'uuid'
import { stopTurn } from '../log/stop.ts'
import { OptionError } from '../option-checks.ts'
import { bounds } from '../options.ts'
import { retry } from '../store/control.ts'
import type { Database } from '../store/database.ts'
import { failedTurns, queuedTurns, setPaused } from '../store/operate.ts'
import { each, type Failure, patient } from './batch.ts'
import { withDatabase } from './database.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'
import { readSettings } from './settings.ts'

const operator = 'operator'

export const retryCommand = command({
  name: 'retry',
  description:
    'Tries failed turns again: holdfast retry --failed --since 1h. How many rounds a turn may have, and when it expires, is taken from HOLDFAST_ROUNDS_MAX and HOLDFAST_TURN_EXPIRES_MS, not from what an app sets in code.',
  args: {
    failed: { type: 'boolean', required: true, description: 'Those that failed and may be tried again.' },
    since: { type: 'string', required: true, description: 'How long ago at most, like 30m, 2h or 1d.' },
  },
  async run(database, { since }) {
    const { options } = readSettings(process.env)
    const roundsMax = options.roundsMax ?? bounds.roundsMax.default
    const expiresMs = options.expiresMs ?? bounds.expiresMs.default
    const counts = await each(failedTurns(database, secondsOf('since', since)), async ({ round, ...key }) => {
      const ask = { round, replyId: uuidv7(), roundsMax, expiresMs, sendsMax: 0 }
      return (await retry(database, { ...key, userId: null }, ask)).outcome === 'done'
    })
    return [
      `${turns(counts.done)} queued again`,
      counts.left === 0
        ? null
        : `${counts.left} left as they are: they had ${roundsMax} rounds already (HOLDFAST_ROUNDS_MAX), or somebody was faster`,
      counts.failure,
    ]
  },
})

export const stopCommand = command({
  name: 'stop',
  description: 'Stops turns that wait: holdfast stop --queued --older 1h',
  args: {
    queued: { type: 'boolean', required: true, description: 'Those that wait for a runner.' },
    older: { type: 'string', required: true, description: 'For how long at least, like 30m, 2h or 1d.' },
  },
  async run(database, { older }) {
    const waiting = queuedTurns(database, secondsOf('older', older))
    const counts = await each(waiting, async ({ tenantId, sessionId, messageId, round }) => {
      const ask = { tenantId, sessionId, messageId, by: operator, reason: operator, round, userId: null }
      return (await stopTurn(database, { ...ask, onlyQueued: true })).outcome === 'stopped'
    })
    return [
      `${turns(counts.done)} stopped, whose messages stay and may be tried again`,
      counts.left === 0 ? null : `${counts.left} left as they are: they began meanwhile`,
      counts.failure,
    ]
  },
})

export const pauseCommand = command({
  name: 'pause',
  description: 'Stops claiming on all servers. Messages are still accepted.',
  args: {},
  async run(database) {
    const running = await setOrSay(database, true)
    const end = `${turns(running)} still ${running === 1 ? 'runs' : 'run'} and may end`
    return [`Paused: no turn begins until "holdfast resume"`, end]
  },
})

export const resumeCommand = command({
  name: 'resume',
  description: 'Claims again on all servers, after "holdfast pause".',
  args: {},
  async run(database) {
    await setOrSay(database, false)
    return ["Resumed: what waits begins when a runner looks next, within a second or its server's HOLDFAST_POLL_MS"]
  },
})

async function setOrSay(database: Database, paused: boolean): Promise<number> {
  const running = await setPaused(database, paused)
  if (running !== null) return running
  throw new OptionError('No server has run on this database yet: there is nothing to pause or resume.')
}

function command<const Args extends ArgsDef>(what: {
  name: string
  description: string
  args: Args
  /** Answers what is said of it, and whether something failed: then it ends with exit code 1. */
  run(database: Database, args: { [name in keyof Args]: string }): Promise<(string | Failure | null)[]>
}) {
  const work = async (args: unknown) =>
    await withDatabase(true, async (database) => {
      const said = await what.run(patient(database), args as { [name in keyof Args]: string })
      const failed = said.some((part) => typeof part === 'object' && part !== null)
      const texts = said.flatMap((part) => (typeof part === 'string' ? part : (part?.says ?? [])))
      process.stdout.write(`${texts.join('. ')}.\n`)
      if (failed) process.exitCode = 1
    })
  return defineCommand({
    plugins: [onlyKnownArguments],
    meta: { name: what.name, description: what.description },
    args: what.args as ArgsDef,
    run: ({ args }) => work(args).catch(exit),
  })
}

const units: Record<string, number> = { s: 1, m: 60, h: 3_600, d: 86_400 }

function secondsOf(name: string, text: string): number {
  const [, count, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? []
  if (count === undefined) throw new OptionError(`--${name}: expected a time like 30m, 2h or 1d, got "${text}".`)
  return Number(count) * units[unit!]!
}

const turns = (count: number) => `${count} ${count === 1 ? 'turn' : 'turns'}`
