/** What a command on many turns does where the database does not answer. */
import { expect, test } from 'vitest'
import { each, patient } from '../../src/cli/batch.ts'
import { type Database, DatabaseError, type Statement } from '../../src/store/database.ts'

const turn = (messageId: string) => ({ tenantId: 'default', sessionId: 's', messageId, round: 1 })
const failed = (kind: DatabaseError['kind'], why = 'no') => new DatabaseError(kind, new Error(why))
const statement: Statement = { name: 'x', text: 'select 1' }

async function* pagesOf(...pages: string[][]) {
  for (const page of pages) yield page.map(turn)
}

/** A database that answers as told, one after the other. */
function answering(...answers: (DatabaseError | number)[]): { database: Database; asked: () => number } {
  let asked = 0
  const query = async () => {
    const answer = answers[asked++]
    if (typeof answer !== 'number') throw answer
    return [answer]
  }
  return { database: { query } as unknown as Database, asked: () => asked }
}

test('one turn that cannot be had is counted, and the others are asked', async () => {
  const { done, left, failure } = await each(pagesOf(['a', 'b'], ['c', 'd']), async ({ messageId }) => {
    if (messageId === 'b') throw failed('conflict', 'somebody holds it')
    return messageId !== 'c'
  })
  expect({ done, left }).toEqual({ done: 2, left: 1 })
  expect(failure?.says).toBe('1 could not be asked (somebody holds it): give the command again')
})

test('a database that is away ends the batch, with the counts so far', async () => {
  const asked: string[] = []
  const counts = await each(pagesOf(['a', 'b'], ['c']), async ({ messageId }) => {
    asked.push(messageId)
    if (messageId === 'b') throw failed('refused', 'away')
    return true
  })
  expect(asked).toEqual(['a', 'b'])
  expect(counts).toEqual({
    done: 1,
    left: 0,
    failure: { says: 'The rest could not be asked (away): give the command again' },
  })
})

test('where nothing could be read at all, that is the error', async () => {
  const away = failed('refused')
  // biome-ignore lint/correctness/useYield: it fails before
  async function* pages(): AsyncGenerator<never> {
    throw away
  }
  await expect(each(pages(), async () => true)).rejects.toBe(away)
})

test('what was not answered is asked again twice; a bug is not', async () => {
  const busy = answering(failed('conflict'), failed('unknown'), 7)
  expect(await patient(busy.database).query('read', statement, [])).toEqual([7])
  const gone = answering(failed('refused'), failed('refused'), failed('refused'), 7)
  await expect(patient(gone.database).query('read', statement, [])).rejects.toMatchObject({ kind: 'refused' })
  const bug = answering(failed('bug'), 7)
  await expect(patient(bug.database).query('read', statement, [])).rejects.toMatchObject({ kind: 'bug' })
  expect([busy.asked(), gone.asked(), bug.asked()]).toEqual([3, 3, 1])
})
