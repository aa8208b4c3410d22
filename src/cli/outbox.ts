/** `holdfast outbox`: what waits, what is dead and why, and sending it again. Payloads are shown by `show` alone. */
import { type ArgsDef, type CommandDef, defineCommand } from 'citty'
import { OptionError } from '../option-checks.ts'
import type { Database } from '../store/database.ts'
import {
  enableWebhook,
  forgetWebhook,
  listOutbox,
  listWebhooks,
  type OutboxEntry,
  type OutboxState,
  readOutbox,
  retryOutbox,
  topicsOfOutbox,
} from '../store/outbox-list.ts'
import { patient } from './batch.ts'
import { withDatabase } from './database.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'

const states = ['due', 'running', 'done', 'dead']
const rowsMax = 200
const topicArgument = { type: 'string', description: 'Only of this topic.' } as const

const list = command({
  name: 'list',
  description: 'What waits and what is dead, by topic, and the last 50: holdfast outbox list --state dead',
  args: {
    state: { type: 'string', description: `Only those that are ${states.join(', ')}.` },
    topic: topicArgument,
    limit: { type: 'string', description: `How many at most, up to ${rowsMax}. 50 unless given.` },
  },
  async run(database, { state, topic, limit = '50' }) {
    if (state !== undefined && !states.includes(state)) {
      throw new OptionError(`--state: expected one of ${states.join(', ')}, got "${state}".`)
    }
    const count = /^\d{1,3}$/.test(limit) ? Number(limit) : 0
    if (count < 1 || count > rowsMax) throw new OptionError(`--limit: expected 1 to ${rowsMax}, got "${limit}".`)
    const ask = { state: (state ?? null) as OutboxState | null, topic: topic ?? null, before: null, limit: count }
    const entries = await listOutbox(database, ask)
    const topics = await topicsOfOutbox(database)
    const heads = topics.map(({ topic, waiting, dead }) => `${topic}: ${waiting} waiting, ${dead} dead`)
    const isAll = state === undefined && topic === undefined
    const nothing = isAll ? 'The outbox is empty.' : 'Nothing in the outbox is so.'
    const rest = entries.length === 0 ? [nothing] : entries.map(lineOf)
    return [...heads, ...(heads.length > 0 ? [''] : []), ...rest]
  },
})

const show = command({
  name: 'show',
  description: 'One of them with its payload: holdfast outbox show 12',
  args: { number: { type: 'positional', required: true, description: 'Its number, as list shows it.' } },
  async run(database, { number }) {
    const entry = await readOutbox(database, numberOf(number))
    if (entry === null) throw new OptionError(`There is no ${number} in the outbox: see "holdfast outbox list".`)
    const { payload, sessionId, ...fields } = entry
    const shown = Object.entries(fields).filter(([, value]) => value !== null)
    const said = sessionId === null ? `payload   ${JSON.stringify(payload)}` : `event     ${payload} of ${sessionId}`
    return [...shown.map(([name, value]) => `${name.padEnd(10)}${clean(String(value))}`), clean(said)]
  },
})

const retry = command({
  name: 'retry',
  description: 'Sends dead letters again: holdfast outbox retry 12, or holdfast outbox retry --all --topic sync',
  args: {
    number: { type: 'positional', required: false, description: 'Its number, as list shows it.' },
    all: { type: 'boolean', description: 'All that are dead by now.' },
    topic: topicArgument,
  },
  async run(database, { number, all, topic }) {
    if ((number === undefined) === (all === undefined)) {
      throw new OptionError('Say which: a number as list shows it, or --all.')
    }
    if (number !== undefined) {
      if (await retryOutbox(database, numberOf(number))) return [`${number} is sent again now.`]
      throw new OptionError(`${number} is no dead letter: see "holdfast outbox list --state dead".`)
    }
    let sent = 0
    // The oldest ones come last, and are the first of their keys all the same.
    for (let before: number | null = null; ; ) {
      const page = await listOutbox(database, { state: 'dead', topic: topic ?? null, before, limit: rowsMax })
      for (const { n } of page) if (await retryOutbox(database, n)) sent++
      if (page.length < rowsMax) break
      before = page.at(-1)!.n
    }
    return [`${sent} ${sent === 1 ? 'is' : 'are'} sent again now.`]
  },
})

const webhooks = command({
  name: 'webhooks',
  description: 'The webhooks, and which of them are disabled.',
  args: {},
  async run(database) {
    const all = await listWebhooks(database)
    if (all.length === 0) return ['There are no webhooks: see the option webhooks in docs/outbox.md.']
    return all.map(({ name, state, events, disabledAt, disabledWhy }) =>
      [name, state, events === null ? 'all events' : events.join(' '), disabledAt, disabledWhy]
        .filter(Boolean)
        .join('  '),
    )
  },
})

const enable = command({
  name: 'enable',
  description: 'Sends to a webhook again that was disabled: holdfast outbox enable NAME',
  args: { name: { type: 'positional', required: true, description: 'As "holdfast outbox webhooks" shows it.' } },
  async run(database, { name }) {
    if (!(await enableWebhook(database, name))) {
      throw new OptionError(`There is no webhook ${name}: see "holdfast outbox webhooks".`)
    }
    return [
      `${name} is sent what comes from now on. What it missed is dead: holdfast outbox retry --all --topic webhook:${name}`,
    ]
  },
})

const forget = command({
  name: 'forget',
  description: 'Of a webhook that was taken out of the options nothing waits any more: holdfast outbox forget NAME',
  args: { name: { type: 'positional', required: true, description: 'As "holdfast outbox webhooks" shows it.' } },
  async run(database, { name }) {
    if (!(await forgetWebhook(database, name))) {
      throw new OptionError(`There is no webhook ${name}: see "holdfast outbox webhooks".`)
    }
    return [`${name} is forgotten, with all that waited for it. A process that has it still brings it back.`]
  },
})

export const outboxCommand: CommandDef = defineCommand({
  meta: { name: 'outbox', description: 'Webhooks and jobs: what waits, what is dead and why, sending it again.' },
  default: 'list',
  subCommands: { list, show, retry, webhooks, enable, forget },
})

function command<const Args extends ArgsDef>(what: {
  name: string
  description: string
  args: Args
  run(
    database: Database,
    args: { [name in keyof Args]: Args[name] extends { required: true } ? string : string | undefined },
  ): Promise<string[]>
}) {
  const work = (args: unknown) =>
    withDatabase(true, async (database) => {
      const lines = await what.run(patient(database), args as Parameters<typeof what.run>[1])
      process.stdout.write(`${lines.join('\n')}\n`)
    })
  return defineCommand({
    plugins: [onlyKnownArguments],
    meta: { name: what.name, description: what.description },
    args: what.args as ArgsDef,
    run: ({ args }) => work(args).catch(exit),
  })
}

function numberOf(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text)
  throw new OptionError(`Expected a number as "holdfast outbox list" shows it, got "${text}".`)
}

function lineOf({ n, topic, key, state, tries, dueAt, endedAt, at, error }: OutboxEntry): string {
  const when = state === 'due' ? (dueAt === null ? 'waits for another of its key' : `due ${dueAt}`) : (endedAt ?? at)
  const parts = [String(n).padStart(6), state.padEnd(7), topic, key && `key ${key}`, when]
  return clean(
    [...parts, tries > 0 && (tries === 1 ? 'tried once' : `tried ${tries} times`), error].filter(Boolean).join('  '),
  )
}

/** An app's error or key may hold what moves a terminal's cursor. */
function clean(text: string): string {
  return text.replaceAll(/\p{Cc}+/gu, ' ')
}
