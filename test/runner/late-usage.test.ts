/** FD2: what is reported while the answer to an attempt's end is lost is in the ledger, whatever became of that end. */
import pg from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { ReplyError } from '../../src/core/errors.ts'
import { createHoldfast, type ReplyContext } from '../../src/index.ts'
import { apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { dropAnswerAfter, startProxy } from '../support/proxy.ts'
import { jwtSecret } from '../support/server.ts'

test.each([
  ['finish', null, 'complete'],
  ['fail', 'content_filtered', 'failed'],
  ['requeue', 'provider_overloaded', 'failed'],
] as const)(
  'a step that is reported while the answer to %s is lost is in the ledger (FD2, I12)',
  async (statement, code, outcome) => {
    const fresh = await freshDatabase(18)
    const target = new URL(fresh.url)
    const proxy = await startProxy({ target: { host: target.hostname, port: Number(target.port) } })
    const through = new URL(fresh.url)
    through.hostname = proxy.host
    through.port = String(proxy.port)
    let first: ReplyContext | undefined
    const chat = createHoldfast({
      ...{ database: through.href, tokens: { secret: jwtSecret }, log: () => undefined, drainMs: 0 },
      async *reply(context: ReplyContext) {
        yield 'the answer'
        if (first) return
        first = context
        context.usage({ outputTokens: 5 })
        if (code) throw new ReplyError(code, 'on purpose')
      },
    })
    onTestFinished(async () => {
      await chat.close()
      await proxy.close()
      await fresh.drop()
    })
    const ann = await apiOf((await chat.listen(0)).url)
    const session = await ann.createSession()
    const lost = dropAnswerAfter(proxy, (bytes) => bytes.includes(`\0${statement}\0`))
    await ann.send(session, 'hi', 'm1')
    await lost
    first!.usage({ outputTokens: 7 })
    const client = new pg.Client(fresh.url)
    await client.connect()
    const ledger = async () =>
      (await client.query('select step, output_tokens, outcome from holdfast.usage where attempt = 1 order by step'))
        .rows
    const rows = await eventually(async () => {
      const found = await ledger()
      return found.length > 1 && found
    }).finally(() => client.end())
    expect(rows).toEqual([
      { step: 0, output_tokens: 5, outcome },
      { step: 1, output_tokens: 7, outcome },
    ])
  },
)
