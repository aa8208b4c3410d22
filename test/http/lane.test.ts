/** The option `lane`: the app's own function, which may ask its database, fail, and be reloaded. */
import { expect, test } from 'vitest'
import { createHoldfast, type LaneOf } from '../../src/index.ts'
import { openChat } from '../support/chat.ts'
import { jwtSecret } from '../support/server.ts'

const lanesOf = ({ messages }: { messages: { role: string; lane: string }[] }) =>
  messages.flatMap(({ role, lane }) => (role === 'user' ? lane : []))

test('lane may answer later, and is asked with the session and its user', async () => {
  const asked: unknown[] = []
  const { ann, session } = await openChat({
    async lane(ask) {
      asked.push(ask)
      await new Promise(setImmediate)
      return 'author' as const
    },
  })
  expect((await ann.send(session, 'hi', 'm1')).message.lane).toBe('user:ann')
  expect(asked).toEqual([{ session: { id: session }, user: { id: 'ann', tenantId: 'default' } }])
})

test.each<[string, LaneOf]>([
  [
    'throws',
    () => {
      throw new Error('away')
    },
  ],
  ['rejects', () => Promise.reject(new Error('away'))],
  ['answers something else', () => 'mine' as 'main'],
])(
  'where lane %s, nothing is stored and the client is told to send again; a reloaded one is used from then on',
  async (_, lane) => {
    const { ann, session, database } = await openChat({ lane })
    const refused = await ann.send(session, 'hi', 'm1').catch((error) => error.problem)
    expect(refused).toMatchObject({ status: 500, code: 'internal', retryable: true })
    expect((await ann.snapshot(session)).messages).toEqual([])
    // As a reloaded module does.
    createHoldfast({ database, tokens: { secret: jwtSecret }, reply: () => 'the answer', lane: () => 'author' })
    await ann.send(session, 'hi', 'm1')
    expect(lanesOf(await ann.snapshot(session))).toEqual(['user:ann'])
  },
)
