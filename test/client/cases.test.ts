/** The cases that clients in any language are held to (frames in, what is shown out), and ours. */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { type Case, comparable, played } from './cases.ts'

const dir = fileURLToPath(new URL('cases/', import.meta.url))
const names = readdirSync(dir).filter((name) => name.endsWith('.json'))

test.each(names)('%s', (name) => {
  const { given, shown } = JSON.parse(readFileSync(dir + name, 'utf8')) as Case
  expect(JSON.parse(JSON.stringify(comparable(played(given).now())))).toEqual(shown)
})

test('the cases hold what clients must know: branches, stops, retries, chunks, and frames that lead nowhere', () => {
  const all = names.map((name) => JSON.stringify(JSON.parse(readFileSync(dir + name, 'utf8')))).join('')
  const members = ['member.joined', 'member.changed', 'member.left']
  const turns = ['attempt.started', 'attempt.ended', 'turn.queued', 'turn.waiting', 'approval.answered']
  const wanted = [
    'chunk',
    'message.error',
    'message.stopped',
    'message.said',
    'reset-step',
    'tool-book',
    ...turns,
    ...members,
  ]
  expect(wanted.filter((type) => !all.includes(`"type":"${type}"`))).toEqual([])
  expect(all).toContain('"leadsOn":false')
})
