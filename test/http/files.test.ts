/** Files of a session: taken out of messages or uploaded, stored once, served safely, and gone with the session. */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type IncomingMessage, request } from 'node:http'
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { limits } from '../../src/core/limits.ts'
import { createHoldfast } from '../../src/index.ts'
import { fileSliceBytes } from '../../src/store/files.ts'
import { openScene } from '../faults/scene.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf, type Problem } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { tokenOf } from '../support/server.ts'
import { openTables } from './tables.ts'

type Stored = { id: string; url: string; mediaType: string; size: number }
const png = Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex')
const dataUrl = (mediaType: string, bytes: Uint8Array) =>
  `data:${mediaType};base64,${Buffer.from(bytes).toString('base64')}`
const filePart = (mediaType: string, url: string, filename?: string) => ({
  type: 'file',
  mediaType,
  url,
  ...(filename === undefined ? {} : { filename }),
})
const parts = (...files: object[]) => ({ text: undefined, parts: [{ type: 'text', text: 'look' }, ...files] })

/** No reply is written, so what is stored changes by requests alone. */
async function openFiles() {
  const opened = await openChat({ roles: ['http'] })
  const { ann, session, url, database } = opened
  const tables = await openTables(database)
  onTestFinished(() => tables.close())
  const upload = (bytes: Uint8Array, mediaType = 'image/png', query = '', api: Api = ann) =>
    api.request(`/v1/sessions/${session}/files${query}`, {
      method: 'POST',
      headers: { 'content-type': mediaType },
      body: bytes as Uint8Array<ArrayBuffer>,
    })
  const stored = async (bytes: Uint8Array, mediaType?: string, query?: string) => {
    const response = await upload(bytes, mediaType, query)
    expect(response.ok).toBe(true)
    return (await response.json()) as Stored
  }
  const rows = () =>
    tables.query<{ session_id: string; id: string; media_type: string; size: number; filename: string | null }>(
      'select session_id, id, media_type, size, filename from holdfast.files order by created_at',
    )
  const join = async (userId: string, role: string) => {
    await tables.query('insert into holdfast.members (tenant_id, session_id, user_id, role) values ($1, $2, $3, $4)', [
      'default',
      session,
      userId,
      role,
    ])
    return await apiOf(url, userId)
  }
  return { ...opened, tables, upload, stored, rows, join }
}

const ofTransport = ['date', 'connection', 'keep-alive']
const problemOf = async (response: Response) => (await response.json()) as Problem
const bytesOf = async (response: Response) => Buffer.from(await response.arrayBuffer())

test('an upload answers where the file is, the same again 200, and its bytes come back equal (P91)', async () => {
  const { ann, session, upload, rows } = await openFiles()
  const bytes = randomBytes(100_000)
  const first = await upload(bytes, 'image/png; x=1', '?filename=a.png')
  const body = (await first.json()) as Stored
  const id = createHash('sha256').update('image/png\n').update(bytes).digest('base64url')
  expect([first.status, first.headers.get('location'), body]).toEqual([
    201,
    body.url,
    { id, url: `/v1/sessions/${session}/files/${id}`, mediaType: 'image/png', size: 100_000 },
  ])
  const again = await upload(bytes, 'IMAGE/PNG', '?filename=other.png')
  expect([again.status, await again.json()]).toEqual([200, body])
  expect(await rows()).toEqual([{ session_id: session, id, media_type: 'image/png', size: 100_000, filename: 'a.png' }])
  expect((await bytesOf(await ann.request(body.url))).equals(bytes)).toBe(true)
  const list = await ann.request(`/v1/sessions/${session}/files`)
  expect(await list.json()).toEqual({
    data: [{ ...body, filename: 'a.png', author: 'ann', createdAt: expect.stringMatching(/^2.*Z$/) }],
    before: null,
    after: null,
  })
})

test('ten uploads of one content at once store it once; under another type, or in another session, it is another file', async () => {
  const { ann, session, upload, stored, rows } = await openFiles()
  const answers = await Promise.all(Array.from({ length: 10 }, () => upload(png)))
  expect(answers.map(({ status }) => status).sort()).toEqual([...Array(9).fill(200), 201])
  await stored(png, 'image/gif')
  const other = await ann.createSession()
  await ann.send(other, '', 'm1', parts(filePart('image/png', dataUrl('image/png', png))))
  const [first, ...more] = await rows()
  expect(more).toEqual([
    { ...first, media_type: 'image/gif', id: expect.not.stringMatching(first!.id) },
    { ...first, session_id: other },
  ])
  expect(first!.session_id).toBe(session)
})

test('a data URL in a message is stored as a file before the message is, and stands in it as a path (P90)', async () => {
  const { ann, session, rows } = await openFiles()
  const sent = await ann.send(session, '', 'm1', parts(filePart('image/png', dataUrl('image/png', png), 'a.png')))
  const [file] = await rows()
  const url = `/v1/sessions/${session}/files/${file!.id}`
  expect(sent.message.parts).toEqual([{ type: 'text', text: 'look' }, filePart('image/png', url, 'a.png')])
  expect((await bytesOf(await ann.request(url))).equals(png)).toBe(true)
  expect(JSON.stringify((await ann.poll(session, {})).frames)).not.toContain('base64')
})

test('a repeated message compares equal with the data URL and with the path, and stores nothing more (P31, P90)', async () => {
  const { ann, session, rows } = await openFiles()
  const body = parts(filePart('image/png', dataUrl('image/png', png)))
  const first = await ann.send(session, '', 'm1', body)
  expect(await ann.send(session, '', 'm1', body)).toEqual(first)
  expect(await ann.send(session, '', 'm1', { text: undefined, parts: first.message.parts })).toEqual(first)
  const other = parts(filePart('image/png', dataUrl('image/png', Buffer.from('another'))))
  await expect(ann.send(session, '', 'm1', other)).rejects.toMatchObject({ problem: { code: 'id_conflict' } })
  expect((await rows()).map(({ size }) => size)).toEqual([png.length, 'another'.length])
})

test('content that is text may be escaped instead of base64, and is the same file; an unknown type is the URL’s (P90)', async () => {
  const { ann, session, rows } = await openFiles()
  const files = [
    filePart('text/plain', 'data:text/plain;charset=utf-8,%C3%A9%20%2B'),
    filePart('text/plain;charset=utf-8', dataUrl('text/plain', Buffer.from('é +'))),
    filePart('', `data:application/octet-stream;base64,AAAA`),
  ]
  const { message } = await ann.send(session, '', 'm1', parts(...files))
  const [text, binary] = await rows()
  expect((await rows()).map(({ media_type }) => media_type)).toEqual(['text/plain', 'application/octet-stream'])
  const [, a, b, c] = message.parts
  expect([a!.url, b!.url, c!.url]).toEqual([text, text, binary].map((row) => expect.stringContaining(row!.id)))
  expect(c!.mediaType).toBe('application/octet-stream')
})

test('an edit takes files out, too, and takes those of its session by their path (P72, P90)', async () => {
  const { ann, session, stored, rows } = await openFiles()
  await ann.send(session, 'hi', 'm1')
  const { url } = await stored(png)
  const edited = await ann.command(session, 'm1', 'edit', {
    id: 'm2',
    parts: [filePart('image/png', url), filePart('text/plain', 'data:text/plain,hello')],
  })
  const text = (await rows())[1]!
  const path = `/v1/sessions/${session}/files/${text.id}`
  expect(edited.message.parts).toEqual([filePart('image/png', url), filePart('text/plain', path)])
})

test('a path is good in its own session only, under its type, and where it is there (P90, P92, I15)', async () => {
  const { ann, session, stored } = await openFiles()
  const { url, id } = await stored(png)
  const other = await ann.createSession()
  for (const [to, part, detail] of [
    [other, filePart('image/png', url), 'this session has no such file'],
    [other, filePart('image/png', `/v1/sessions/${other}/files/${id}`), 'this session has no such file'],
    [session, filePart('text/html', url), 'the type that the file was stored with'],
  ] as const) {
    await expect(ann.send(to, '', 'm1', parts(part))).rejects.toMatchObject({
      problem: { status: 400, detail: expect.stringContaining(detail) },
    })
  }
})

test('whoever may not read a session finds none of its files, nor whether they are there; readers store none (I15)', async () => {
  const { ann, session, stored, upload, rows, join, url } = await openFiles()
  const file = await stored(png)
  const rita = await join('rita', 'reader')
  const zoe = await apiOf(url, 'zoe')
  const there = file.url
  const missing = `/v1/sessions/${session}/files/${'a'.repeat(43)}`
  const elsewhere = `/v1/sessions/${await ann.createSession()}/files/${file.id}`
  const statuses = async (api: Api) =>
    await Promise.all([there, missing, elsewhere].map(async (path) => (await api.request(path)).status))
  expect(await statuses(ann)).toEqual([200, 404, 404])
  expect(await statuses(rita)).toEqual([200, 404, 404])
  expect(await statuses(zoe)).toEqual([404, 404, 404])
  const known = { headers: { 'if-none-match': `"${file.id}"` } }
  expect((await zoe.request(there, known)).status).toBe(404)
  // Through a message: what is there, what is not, and new content.
  for (const path of [there, missing, dataUrl('image/png', Buffer.from('new'))]) {
    const sent = (api: Api) => api.send(session, '', 'm1', parts(filePart('image/png', path)))
    await expect(sent(zoe)).rejects.toMatchObject({ problem: { code: 'not_found' } })
    await expect(sent(rita)).rejects.toMatchObject({ problem: { code: 'forbidden' } })
  }
  expect((await upload(Buffer.from('x'), 'text/plain', '', zoe)).status).toBe(404)
  expect((await upload(Buffer.from('x'), 'text/plain', '', rita)).status).toBe(403)
  expect(await rows()).toHaveLength(1)
})

test('whoever is no member any more gets no more of a file that is under way, and knows that it is not whole (I15)', async () => {
  const { url, upload, tables, join } = await openFiles()
  const { url: path } = (await (await upload(randomBytes(limits.fileBytesMax))).json()) as Stored
  const rita = await join('rita', 'reader')
  const asked = request(`${url}${path}`, { headers: { authorization: `Bearer ${await tokenOf('rita')}` } }).end()
  const [response] = (await once(asked, 'response')) as [IncomingMessage]
  // Not read until then: what the sockets hold is less than the file.
  await tables.query("delete from holdfast.members where user_id = 'rita'")
  let bytes = 0
  response.on('data', (piece: Buffer) => {
    bytes += piece.length
  })
  await expect(once(response, 'end')).rejects.toThrow('aborted')
  expect([bytes < limits.fileBytesMax, (await rita.request(path)).status]).toEqual([true, 404])
})

test('8 MB are taken, and one byte more is refused with a sentence and stores nothing (P95)', async () => {
  const { ann, upload, rows } = await openFiles()
  const most = randomBytes(limits.fileBytesMax)
  const taken = await upload(most)
  expect(taken.status).toBe(201)
  const { url } = (await taken.json()) as Stored
  expect((await bytesOf(await ann.request(url))).equals(most)).toBe(true)
  const refused = await problemOf(await upload(Buffer.concat([most, Buffer.from('x')])))
  expect(refused).toMatchObject({ status: 413, code: 'too_large', detail: 'A file may have at most 8 MB.' })
  expect(await rows()).toHaveLength(1)
})

test('a session has so many files and bytes of them; what is there already is still taken (P95)', async () => {
  const { ann, session, tables, stored, upload, rows } = await openFiles()
  await stored(png)
  const fill = (n: number, bytes: string) =>
    tables.query(
      `insert into holdfast.files (tenant_id, session_id, id, media_type, bytes, author)
       select 'default', $1, 'f' || k, 'text/plain', ${bytes}, 'ann' from generate_series(1, ${n}) k`,
      [session],
    )
  const full = async () => {
    const count = (await rows()).length
    const before = (await ann.snapshot(session)).messages
    const detail = 'A session may have at most 1,000 files and 200 MB of them. Start a new session.'
    expect(await problemOf(await upload(Buffer.from('x')))).toMatchObject({ status: 413, code: 'too_large', detail })
    const sending = ann.send(session, '', 'm1', parts(filePart('text/plain', 'data:text/plain,x')))
    await expect(sending).rejects.toMatchObject({ problem: { status: 413, detail } })
    expect((await upload(png)).status).toBe(200)
    expect([(await rows()).length, (await ann.snapshot(session)).messages]).toEqual([count, before])
  }
  await fill(limits.filesMax - 1, `'x'`)
  await full()
  await tables.query(`delete from holdfast.files where id like 'f%'`)
  await fill(25, `convert_to(repeat('x', ${limits.fileBytesMax} - 1), 'utf8')`)
  await stored(Buffer.from('nine'))
  expect(await upload(Buffer.from('as many as are left')).then(({ status }) => status)).toBe(413)
})

test('only what is harmless is shown by a browser: never SVG or HTML, and no file is a page of ours (P94)', async () => {
  const { ann, stored } = await openFiles()
  const headers = async (mediaType: string) => {
    const { url } = await stored(Buffer.from('<svg onload="alert(1)"/>'), mediaType, '?filename=%C3%A9%20%22(1)%22.x')
    return (await ann.request(url)).headers
  }
  const name = `filename*=UTF-8''%C3%A9%20%22%281%29%22.x`
  for (const type of [
    'image/svg+xml',
    'text/html',
    'application/xhtml+xml',
    'application/pdf',
    'text/xml',
    'text/css',
  ]) {
    const served = await headers(type)
    expect([type, served.get('content-disposition'), served.get('content-type')]).toEqual([
      type,
      `attachment; ${name}`,
      type,
    ])
  }
  for (const [type, served] of [
    ['image/png', 'image/png'],
    ['video/mp4', 'video/mp4'],
    ['text/plain', 'text/plain; charset=utf-8'],
  ] as const) {
    const found = await headers(type)
    expect([found.get('content-disposition'), found.get('content-type')]).toEqual([`inline; ${name}`, served])
    expect(Object.fromEntries(found)).toMatchObject({
      'content-security-policy': "sandbox; default-src 'none'",
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
      'cache-control': 'private, max-age=86400, immutable',
      vary: 'authorization, cookie',
      'content-length': '24',
    })
  }
})

test('one part of a file is served by its range, whole or not at all, and what is no such range is the whole (P94)', async () => {
  const { ann, stored } = await openFiles()
  const bytes = randomBytes(fileSliceBytes + 1_000)
  const { url, size, id } = await stored(bytes)
  const ask = async (range: string, headers: Record<string, string> = {}) => {
    const answer = await ann.request(url, { headers: { range, ...headers } })
    return { status: answer.status, range: answer.headers.get('content-range'), bytes: await bytesOf(answer) }
  }
  for (const [range, from, to] of [
    ['bytes=0-', 0, size],
    ['bytes=10-19', 10, 20],
    [`bytes=5-${size + 5}`, 5, size],
    [`bytes=${fileSliceBytes - 1}-${fileSliceBytes}`, fileSliceBytes - 1, fileSliceBytes + 1],
    ['bytes=-7', size - 7, size],
  ] as const) {
    const part = await ask(range, { 'if-range': `"${id}"` })
    expect([range, part.status, part.range]).toEqual([range, 206, `bytes ${from}-${to - 1}/${size}`])
    expect(part.bytes.equals(bytes.subarray(from, to))).toBe(true)
  }
  for (const range of [`bytes=${size}-`, 'bytes=-0']) {
    expect(await ask(range)).toMatchObject({ status: 416, range: `bytes */${size}` })
  }
  for (const range of ['bytes=0-1,4-5', 'bytes=9-3', 'bytes=-', 'lines=1-2']) {
    const whole = await ask(range)
    expect([range, whole.status, whole.bytes.length]).toEqual([range, 200, size])
  }
  expect(await ask('bytes=0-1', { 'if-range': '"another"' })).toMatchObject({ status: 200, range: null })
})

test('HEAD answers as GET without the bytes, and a known etag 304 (P7, P94)', async () => {
  const { ann, stored } = await openFiles()
  const { url, id, size } = await stored(png)
  const get = await ann.request(url)
  const head = await ann.request(url, { method: 'HEAD' })
  const shown = ({ headers }: Response) =>
    Object.fromEntries([...headers].filter(([name]) => !ofTransport.includes(name)))
  expect([head.status, shown(head), (await bytesOf(head)).length]).toEqual([200, shown(get), 0])
  expect(head.headers.get('content-length')).toBe(String(size))
  for (const etag of [`"${id}"`, `"x", W/"${id}"`]) {
    const known = await ann.request(url, { headers: { 'if-none-match': etag } })
    expect([known.status, (await bytesOf(known)).length, known.headers.get('etag')]).toEqual([304, 0, `"${id}"`])
  }
  expect((await ann.request(url, { headers: { 'if-none-match': '"x"' } })).status).toBe(200)
})

test('the files of a session go with it, and those of others stay (P23, P95)', async () => {
  const { ann, session, stored, rows } = await openFiles()
  const { url } = await stored(png)
  const other = await ann.createSession()
  await ann.send(other, '', 'm1', parts(filePart('image/png', dataUrl('image/png', png))))
  expect((await ann.request(`/v1/sessions/${session}`, { method: 'DELETE' })).status).toBe(204)
  expect((await ann.request(url)).status).toBe(404)
  expect((await rows()).map(({ session_id }) => session_id)).toEqual([other])
})

test('a process that dies between file and message leaves a file, which the repeated send uses (I1, P90)', async () => {
  const { ann, start, database } = await openScene()
  const dying = await start({ points: ['files.stored:1:kill'] })
  const session = await ann.createSession()
  const body = parts(filePart('image/png', dataUrl('image/png', png)))
  await expect(ann.send(session, '', 'm1', body)).rejects.toThrow()
  await dying.exited
  const client = new Client(database)
  await client.connect()
  onTestFinished(() => client.end())
  const counts = async () =>
    (
      await client.query(`select (select count(*)::int from holdfast.files) as files,
        (select count(*)::int from holdfast.messages where role = 'user') as messages`)
    ).rows[0]
  expect(await counts()).toEqual({ files: 1, messages: 0 })
  await start()
  const { message } = await eventually(() => ann.send(session, '', 'm1', body))
  expect(await counts()).toEqual({ files: 1, messages: 1 })
  expect((await bytesOf(await ann.request(String(message.parts[1]!.url)))).equals(png)).toBe(true)
})

test('behind a base path the part has the path as clients reach it, also where the base path was another one (P9, P92)', async () => {
  const database = await freshDatabase(18)
  const authenticate = () => ({ userId: 'ann' })
  const chat = createHoldfast({
    database: database.url,
    basePath: '/chat',
    roles: ['http'],
    authenticate,
    reply: () => '',
    log: () => undefined,
  })
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  const { url } = await chat.listen(0)
  const ann = await apiOf(`${url}/chat`)
  const session = await ann.createSession()
  const { message } = await ann.send(session, '', 'm1', parts(filePart('image/png', dataUrl('image/png', png))))
  const path = String(message.parts[1]!.url)
  expect(path).toMatch(new RegExp(`^/chat/v1/sessions/${session}/files/`))
  expect((await bytesOf(await fetch(`${url}${path}`))).equals(png)).toBe(true)
  const older = filePart('image/png', path.replace('/chat', '/before/that'))
  expect((await ann.send(session, '', 'm2', parts(older))).message.parts[1]!.url).toBe(path)
})

test('so much is read into memory at a time: more is told to come later, and has room when senders go away (P95)', async () => {
  const { url, session, upload, rows } = await openFiles()
  const most = limits.fileBytesMax
  const authorization = `Bearer ${await tokenOf('ann')}`
  const headers = { authorization, 'content-type': 'image/png', 'content-length': most }
  // All but the last byte: the server holds what was sent, and waits.
  const slow = Array.from({ length: limits.bodiesBytesMax / most }, () => {
    const asked = request(`${url}/v1/sessions/${session}/files`, { method: 'POST', headers })
    asked.on('error', () => undefined)
    asked.write(Buffer.alloc(most - 1))
    return asked
  })
  const small = Buffer.alloc(1_000, 'y')
  const refused = await eventually(async () => {
    const response = await upload(small)
    return response.status === 429 && (await problemOf(response))
  })
  expect(refused).toMatchObject({ code: 'rate_limited', retryAfterMs: 1_000, retryable: true })
  for (const each of slow) each.destroy()
  await eventually(async () => (await upload(small)).ok)
  expect((await rows()).map(({ size }) => size)).toEqual([1_000])
})
