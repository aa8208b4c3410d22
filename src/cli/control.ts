/** `holdfast retry`, `stop`, `pause`, `resume`: what an operator does after an outage, or before a deploy. */
import { type ArgsDef, defineCommand } from 'citty'
import { v7 as uuidv7 } from 'uuid'
import { stopTurn } from '../log/stop.ts'
import { bounds, OptionError } from '../options.ts'
import { retry } from '../store/control.ts'
import type { Database } from '../store/database.ts'
import { failedTurns, queuedTurns, setPaused } from '../store/operate.ts'
import { withDatabase } from './database.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'
import { readSettings } from './settings.ts'

const operator = 'operator'
/** A line on standard error each time that so many were done. */
const progressEvery = 1_000

export const retryCommand = command({
  name: 'retry',
  description: 'Tries failed turns again: holdfast retry --failed --since 1h',
  args: {
    failed: { type: 'boolean', required: true, description: 'Those that failed and may be tried again.' },
    since: { type: 'string', required: true, description: 'How long ago at most, like 30m, 2h or 1d.' },
  },
  async run(database, { since }) {
    const { options } = readSettings(process.env)
    const roundsMax = options.roundsMax ?? bounds.roundsMax.default
    const expiresMs = options.expiresMs ?? bounds.expiresMs.default
    const counts = await each(await failedTurns(database, secondsOf('since', since)), async ({ round, ...key }) => {
      const ask = { round, replyId: uuidv7(), roundsMax, expiresMs, sendsMax: 0 }
      return (await retry(database, { ...key, userId: null }, ask)).outcome === 'done'
    })
    return `${turns(counts.done)} queued again${counts.left > 0 ? `, ${counts.left} left as they are: they were answered at most ${roundsMax} times, or somebody was faster` : ''}.`
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
    const waiting = await queuedTurns(database, secondsOf('older', older))
    const counts = await each(waiting, async ({ tenantId, sessionId, messageId, round }) => {
      const ask = { tenantId, sessionId, messageId, by: operator, reason: operator, round, userId: null }
      return (await stopTurn(database, ask)).outcome === 'stopped'
    })
    return `${turns(counts.done)} stopped${counts.left > 0 ? `, ${counts.left} left as they are: they began meanwhile` : ''}. Their messages stay, and may be tried again.`
  },
})

export const pauseCommand = command({
  name: 'pause',
  description: 'Stops claiming on all servers. Messages are still accepted.',
  args: {},
  async run(database) {
    const running = await setPaused(database, true)
    return `Paused: no turn begins until "holdfast resume". ${turns(running)} still ${running === 1 ? 'runs' : 'run'} and may end.`
  },
})

export const resumeCommand = command({
  name: 'resume',
  description: 'Claims again on all servers, after "holdfast pause".',
  args: {},
  async run(database) {
    await setPaused(database, false)
    return 'Resumed: what waits begins within a second.'
  },
})

function command<const Args extends ArgsDef>(what: {
  name: string
  description: string
  args: Args
  run(database: Database, args: { [name in keyof Args]: string }): Promise<string>
}) {
  const work = async (args: unknown) =>
    await withDatabase(true, async (database) => {
      process.stdout.write(`${await what.run(database, args as { [name in keyof Args]: string })}\n`)
    })
  return defineCommand({
    plugins: [onlyKnownArguments],
    meta: { name: what.name, description: what.description },
    args: what.args as ArgsDef,
    run: ({ args }) => work(args).catch(exit),
  })
}

async function each<T>(all: T[], act: (one: T) => Promise<boolean>): Promise<{ done: number; left: number }> {
  let done = 0
  for (const [at, one] of all.entries()) {
    if (await act(one)) done++
    if ((at + 1) % progressEvery === 0) process.stderr.write(`${at + 1} of ${all.length}\n`)
  }
  return { done, left: all.length - done }
}

const units: Record<string, number> = { s: 1, m: 60, h: 3_600, d: 86_400 }

function secondsOf(name: string, text: string): number {
  const [, count, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? []
  if (count === undefined) throw new OptionError(`--${name}: expected a time like 30m, 2h or 1d, got "${text}".`)
  return Number(count) * units[unit!]!
}

const turns = (count: number) => `${count} ${count === 1 ? 'turn' : 'turns'}`
