/**
 * The tree of messages (test/model/branches.ts) is held to the SQL: after each command the same messages are shown, with
 * the same alternatives, and each turn is told the same conversation (I13).
 */
import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { failureOf } from '../src/core/errors.ts'
import { textOf } from '../src/core/parts.ts'
import { stopTurn } from '../src/log/stop.ts'
import { createAcceptor, type WhenBusy } from '../src/store/accept.ts'
import * as control from '../src/store/control.ts'
import type { Database } from '../src/store/database.ts'
import { messagePage, promptMessages } from '../src/store/messages.ts'
import { type Claimed, failIfHeld, finishIfHeld } from '../src/store/turns.ts'
import * as tree from './model/branches.ts'
import { claimAll, writeText } from './races/held.ts'
import { wrongs } from './races/tree.ts'
import { postgresVersions } from './support/postgres.ts'
import { acceptanceOf, openStored, type Stored, sessionsOf, tenantId, userId } from './support/stored.ts'

const roundsMax = 4
const busyWords: WhenBusy[] = ['queue', 'queue', 'interrupt', 'steer', 'steer', 'reject']
const ends = ['complete', 'complete', 'failed', 'stopped'] as const
const types = ['send', 'send', 'send', 'claim', 'claim', 'claim', 'end', 'end', 'end', 'edit', 'edit'] as const
const rareTypes = ['regenerate', 'retry', 'retry', 'select', 'select', 'stop', 'stop', 'steer'] as const
const number = fc.noBias(fc.nat(999))
const commands = fc.array(fc.record({ type: fc.constantFrom(...types, ...rareTypes), a: number, b: number }), {
  minLength: 20,
  maxLength: 60,
})
type Command = { type: (typeof types)[number] | (typeof rareTypes)[number]; a: number; b: number }

describe.each(postgresVersions)('the tree of messages and PostgreSQL %i', (version) => {
  let stored: Stored
  let database: Database
  beforeAll(async () => {
    stored = await openStored(version)
    database = stored.open()
  })
  afterAll(() => stored.close())

  test('show the same branch after any commands, and tell each turn the same conversation (I10, I13)', async () => {
    const seen = new Map<string, number>()
    let prompts = 0
    const property = fc.asyncProperty(commands, async (some) => {
      const talk = await openTalk(database)
      for (const command of some) {
        const told = await talk.run(command)
        if (told !== null) seen.set(told, (seen.get(told) ?? 0) + 1)
      }
      prompts += talk.prompts()
      await talk.close()
    })
    await fc.assert(property, { numRuns: version === 18 ? 100 : 30 })
    expect(await wrongs(stored)).toEqual([])
    // On the other version there are too few to ask for the rare ones.
    if (version !== 18) return
    expect(prompts).toBeGreaterThan(100)
    for (const word of mustBeSeen) expect(seen.get(word) ?? 0, word).toBeGreaterThan(0)
  }, 120_000)
})

const mustBeSeen = [
  ...[
    'send created',
    'send busy',
    'edit created',
    'edit changed',
    'edit busy',
    'edit gone',
    'retry queued',
    'retry gone',
  ],
  ...['regenerate queued', 'regenerate busy', 'select selected', 'stop stopped', 'stop late', 'steer some'],
]

async function openTalk(database: Database) {
  const sessionId = randomUUID()
  await sessionsOf(database, 1, sessionId.slice(0, -1))
  const session = `${sessionId.slice(0, -1)}0`
  const acceptor = createAcceptor(database)
  const model = tree.createTree()
  let claimed: { turn: tree.Turn; claimed: Claimed } | null = null
  let made = 0
  let prompts = 0
  const key = ({ id }: tree.Node) => ({ tenantId, sessionId: session, userId, messageId: id })
  const told = (outcome: string, word: string) => (outcome === 'done' ? word : outcome)

  async function expectSame(what: string): Promise<void> {
    const { messages } = await messagePage(database, { tenantId, sessionId: session, userId, limit: 500, from: null })
    const stored = messages.map(({ id, parts, branch }) => [id, textOf(parts), branch?.index ?? 0, branch?.count ?? 1])
    const shown = tree.shown(model).map((node) => {
      const others = node.before!.after.filter(({ role }) => role === node.role)
      const inOrder = node.role === 'user' ? others.toSorted((a, b) => a.turn!.position - b.turn!.position) : others
      return [node.id, node.text, inOrder.indexOf(node), others.length]
    })
    expect(stored, what).toEqual(shown)
  }

  async function expectPrompt(turn: tree.Turn, of: Claimed): Promise<void> {
    const rows = await promptMessages(database, of)
    expect(rows.map(({ role, parts }) => `${role}: ${textOf(parts as never)}`)).toEqual(tree.prompt(turn))
    prompts++
  }

  /** What the log holds of the attempt is what a stop keeps. */
  async function stopIt(turn: tree.Turn): Promise<string> {
    const ask = { tenantId, sessionId: session, messageId: turn.message.id, by: userId, reason: null, round: null }
    const { outcome } = await stopTurn(database, { ...ask, userId })
    return outcome
  }

  async function run({ type, a, b }: Command): Promise<string | null> {
    const turn = model.turns[a % Math.max(1, model.turns.length)]
    const id = `m${++made}`
    const word = await (async (): Promise<string | null> => {
      switch (type) {
        case 'send': {
          const whenBusy = busyWords[b % busyWords.length]!
          const expected = tree.send(model, id, whenBusy)
          const asked = { ...acceptanceOf(session, id, `text of ${id}`), replyId: `${id}-reply`, whenBusy }
          const accepted = await acceptor.accept(asked)
          expect(accepted.outcome).toBe(expected)
          if (accepted.outcome === 'created') {
            for (const each of accepted.interrupted) {
              const ask = { tenantId, sessionId: session, ...each, by: userId, reason: null, userId: null }
              expect((await stopTurn(database, ask)).outcome).toBe('stopped')
              claimed = null
            }
          }
          return expected
        }
        case 'claim': {
          const expected = tree.claim(model)
          const [row] = (await claimAll(database, id)).claimed
          expect(row?.messageId).toBe(expected?.message.id)
          if (!expected || !row) return null
          await expectPrompt(expected, row)
          claimed = { turn: expected, claimed: row }
          if (b % 3 > 0) {
            await writeText(database, row, 2)
            expected.written = `${row.attempt}.1 `
          }
          return 'done'
        }
        case 'end': {
          if (!claimed) return null
          const { turn: ended, claimed: row } = claimed
          claimed = null
          const text = ended.written
          const outcome = ends[b % ends.length]!
          if (outcome === 'stopped') {
            expect(await stopIt(ended)).toBe('stopped')
            tree.end(ended, outcome)
            return outcome
          }
          const parts = text === '' ? [] : [{ type: 'text', text, state: 'done' }]
          const next = text === '' ? 0 : 2
          const reply = { nextIndex: next, parts, metadata: null, model: null, preview: null }
          const stored =
            outcome === 'complete'
              ? await finishIfHeld(database, row, reply, [])
              : await failIfHeld(database, row, failureOf('internal'), reply, [])
          expect(stored.outcome).toBe('stored')
          tree.end(ended, outcome)
          return outcome
        }
        case 'steer':
          if (!claimed) return null
          return await (async ({ turn: steered, claimed: row }) => {
            const expected = tree.steer(model, steered)
            const { messages } = await control.takeSteeringIfHeld(database, row)
            expect(messages.map((message) => message.id)).toEqual(expected)
            await expectPrompt(steered, row)
            return expected.length === 0 ? null : 'some'
          })(claimed)
      }
      if (!turn) return null
      switch (type) {
        case 'edit': {
          const text = `text of ${id}`
          const expected = tree.edit(model, turn, id, text)
          const { turnId, parts, bodyHash } = acceptanceOf(session, id, text)
          const ask = { id, turnId, replyId: `${id}-reply`, parts, metadata: null, bodyHash, preview: null }
          const asks = () => control.edit(database, key(turn.message), { ...ask, expiresMs: 1e9, sendsMax: 0 })
          expect(told((await asks()).outcome, expected)).toBe(expected)
          // Asked again it finds what it has done.
          if (expected === 'created' || expected === 'changed') expect((await asks()).outcome).toBe('same')
          return expected
        }
        case 'retry': {
          const expected = tree.retry(turn, id, roundsMax)
          const { outcome } = await control.retry(database, key(turn.message), {
            ...{ round: null, replyId: id, roundsMax, expiresMs: 1e9, sendsMax: 0 },
          })
          expect(told(outcome, 'queued')).toBe(expected)
          return expected
        }
        case 'regenerate': {
          const expected = tree.regenerate(turn, id, roundsMax)
          const ask = () =>
            control.regenerate(database, key(turn.message), { replyId: id, roundsMax, expiresMs: 1e9, sendsMax: 0 })
          expect(told((await ask()).outcome, 'queued')).toBe(expected)
          if (expected === 'queued') expect((await ask()).outcome).toBe('same')
          return expected
        }
        case 'select': {
          const replies = turn.message.after.filter(({ role }) => role === 'assistant')
          const node = b % 2 || replies.length === 0 ? turn.message : replies[b % replies.length]!
          const isThere = !turn.gone || tree.isShown(model, turn.message) || turn.message.before?.after.includes(node)
          const expected = isThere ? tree.select(model, node) : 'not_found'
          expect(told((await control.selectBranch(database, key(node))).outcome, 'selected')).toBe(expected)
          return expected
        }
        case 'stop': {
          const isRunning = turn.state === 'running'
          const expected = tree.stop(turn)
          expect(await stopIt(turn)).toBe(expected)
          if (isRunning) claimed = null
          return expected
        }
      }
      return null
    })()
    await expectSame(`after ${type} ${a} ${b}`)
    return word === null ? null : `${type} ${word}`
  }

  return {
    run,
    prompts: () => prompts,
    /** What still waits is no concern of the next sequence, which claims what is due. */
    async close() {
      for (const turn of model.turns) await stopIt(turn)
    },
  }
}
