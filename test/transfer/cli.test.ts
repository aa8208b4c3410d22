/** `holdfast import` and `holdfast export`, beside a server that runs. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { textOf } from '../../src/core/parts.ts'
import { type SourceField, sourceRows } from '../../src/store/source-table.ts'
import { readRow } from '../../src/transfer/rows.ts'
import { sessionsIn } from '../../src/transfer/table.ts'
import { openChat } from '../support/chat.ts'
import { apiOf } from '../support/client.ts'
import { endCommands, startCommand } from '../support/command.ts'
import { freshDatabase, queryOnce } from '../support/postgres.ts'

afterEach(endCommands)

async function open() {
  const { url, database } = await openChat()
  const cwd = await mkdtemp(join(tmpdir(), 'holdfast-import-'))
  onTestFinished(() => rm(cwd, { recursive: true }))
  const said = async (...args: string[]) => {
    const command = startCommand(args, { cwd, env: { DATABASE_URL: database } })
    const code = await command.ended
    return { code, text: command.printed() }
  }
  const query = (text: string) => queryOnce(database, text)
  return { url, cwd, said, query }
}

test('an app’s own table comes in, with its columns by name, dry, from a session on, and again (P233)', async () => {
  const { url, said, query } = await open()
  await query(`create schema app; create table app."Messages" (uuid int primary key, thread text, owner text, sender text, body text,
      at timestamp, name text)`)
  await query(`insert into app."Messages"
    select n, 't' || n / 600, case when n % 2 = 0 then 'ann' end, case n % 2 when 0 then 'user' else 'assistant' end, 'text ' || n,
        '2024-01-01'::timestamp + n * interval '1 second', 'talk ' || n / 600 from generate_series(0, 1199) n`)
  await query(`insert into app."Messages" values (5000, 't1', 'ann', 'system', 'be nice', '2024-01-02', null)`)
  expect(await said('import', '--from', 'app.Messages')).toEqual({
    code: 1,
    text: expect.stringContaining(
      'has no column id: say which one is its id with --map id=COLUMN. It has uuid, thread,',
    ),
  })
  const map = ['--map', 'id=uuid,sessionId=thread,userId=owner,role=sender,text=body,createdAt=at,title=name']
  const bad = 'row 1201 (5000): "role": expected "user" or "assistant".\n'
  expect(await said('import', '--from', 'app.Messages', ...map, '--dry-run')).toEqual({
    code: 1,
    // Two sessions' titles count as rows.
    text: `${bad}1203 rows: 1202 good, 1 not taken.\n`,
  })
  expect(await query('select from holdfast.messages')).toEqual([])
  // As after an interruption: the second session first.
  expect((await said('import', '--from', 'app.Messages', ...map, '--after', 't0')).text).toMatch(
    /601 new, 0 known, 1 not taken\.\n$/,
  )
  expect((await said('import', '--from', 'app.Messages', ...map)).text).toMatch(/601 new, 601 known, 1 not taken\.\n$/)
  expect((await said('import', '--from', 'app.Messages', ...map)).text).toMatch(/0 new, 1202 known, 1 not taken\.\n$/)
  const ann = await apiOf(url, 'ann')
  const { session, messages } = await ann.snapshot('t1')
  expect(session).toMatchObject({ title: 'talk 1', messageCount: 600 })
  expect(
    messages.slice(-2).map(({ id, parts, repliesTo, createdAt }) => [id, textOf(parts), repliesTo, createdAt]),
  ).toEqual([
    ['1198', 'text 1198', null, '2024-01-01T00:19:58.000Z'],
    ['1199', 'text 1199', '1198', '2024-01-01T00:19:59.000Z'],
  ])
})

test('what a table of another shape lacks is said in a sentence, and its name is a name whatever it is (P233)', async () => {
  const database = await freshDatabase(18)
  onTestFinished(() => database.drop())
  const [odd, safe] = ['od"d; drop table safe; --', 'safe']
  const quoted = `"${odd.replaceAll('"', '""')}"`
  const columns = 'id text, session_id text, user_id text, role text, content text'
  await queryOnce(database.url, `create table ${safe} (${columns}, created_at int)`)
  await queryOnce(database.url, `create table ${quoted} (${columns}, created_at text, title text)`)
  const read = async (table: string, map: { [field in SourceField]?: string } = {}) => {
    const lines = []
    for await (const rows of sessionsIn(sourceRows(database.url, { table, columns: map, after: null }, 10), 10))
      lines.push(...rows.lines.map(({ value }) => value))
    return lines
  }
  expect(await read(odd)).toEqual([])
  const refusal = (text: string) =>
    expect.objectContaining({ name: 'SourceError', message: expect.stringContaining(text) })
  await expect(read(safe)).rejects.toEqual(
    refusal('The table safe cannot be read: cannot cast type integer to timestamp with time zone. Mend the table'),
  )
  await expect(read('none')).rejects.toEqual(
    refusal('relation "none" does not exist. Give its name as the database has it'),
  )
  await expect(read('')).rejects.toEqual(refusal('cannot be read'))
  await expect(read(odd, { id: `id" from ${safe}; --` })).rejects.toEqual(refusal('has no column id" from safe'))
  await expect(read(odd, { createdAt: 'now()' })).rejects.toEqual(refusal('has no column now()'))
  // A title is cut where no character is.
  await queryOnce(database.url, `insert into ${quoted} values ('m1', 's', 'ann', 'user', 'hi', '2024-01-01', $1)`, [
    `${'x'.repeat(199)}😀`,
  ])
  const lines = await read(odd)
  expect(lines[0]).toMatchObject({ type: 'session', title: 'x'.repeat(199) })
  expect(lines.map((value, n) => 'kind' in readRow(value!, n))).toEqual([true, true])
  await queryOnce(database.url, `insert into ${quoted} values ('m2', 't', 'ann', 'user', 'hi', 'soon', null)`)
  await expect(read(odd)).rejects.toEqual(
    refusal('invalid input syntax for type timestamp with time zone: "soon". Mend'),
  )
})

test('what was exported comes in by the command line, for another user', async () => {
  const { url, cwd, said } = await open()
  const ann = await apiOf(url, 'ann')
  const rows = [
    { type: 'session', id: 'mine', title: 'Mine' },
    { type: 'message', sessionId: 'mine', id: 'm1', role: 'user', text: 'hi', createdAt: '2024-01-01T00:00:00Z' },
  ]
  await ann.request('/v1/import', { method: 'POST', body: JSON.stringify({ rows }) })
  const { text } = await said('export', '--user', 'ann', '--session', 'mine')
  const file = join(cwd, 'moved.jsonl')
  await writeFile(file, `${text.replaceAll('"mine"', '"yours"')}\nnot JSON\n`)
  expect(await readFile(file, 'utf8')).toContain('yours')
  expect(await said('import', '--file', file, '--user', 'bob')).toEqual({
    code: 1,
    text: 'row 4: The line is not valid JSON.\n3 rows: 2 new, 0 known, 1 not taken.\n',
  })
  expect((await (await apiOf(url, 'bob')).snapshot('yours')).messages.map(({ author }) => author)).toEqual(['bob'])
})
