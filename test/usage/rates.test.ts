/** Limits of rates and numbers, as who meets them sees them. Of sends alone: test/http/rate.test.ts. */
import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { createHoldfast, type LimitsByPlan, OptionError } from '../../src/index.ts'
import { createLimitsHere } from '../../src/usage/limits-here.ts'
import { clientOf, openScene } from '../client/scene.ts'
import { openTables } from '../http/tables.ts'
import { openChat } from '../support/chat.ts'
import { type Api, apiOf } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { startServer, tokenOf } from '../support/server.ts'
import { openRaw } from '../support/socket.ts'
import { acceptanceOf, createAcceptor, openStored, sessionsOf } from '../support/stored.ts'

const post = (api: Api, session: string, id: string = randomUUID(), path = 'messages') =>
  api.request(`/v1/sessions/${session}/${path}`, { method: 'POST', body: JSON.stringify({ id, text: 'hi' }) })

/** What a refusal says in its headers, and in its problem. */
async function told(response: Response) {
  const { headers, status } = response
  const { code, detail, retryable, retryAfterMs } = await response.json()
  const header = (name: string) => headers.get(name)
  return {
    ...{ status, code, detail, retryable, retryAfterMs },
    ...{ policy: header('ratelimit-policy'), limit: header('ratelimit'), retryAfter: header('retry-after') },
  }
}

test('as many turns as may be open are accepted at two processes at once, exactly, and again after a restart; another user is unharmed, and one that is stopped makes room (P220, P221)', async () => {
  const database = await freshDatabase(18)
  const tables = await openTables(database.url)
  onTestFinished(async () => {
    await tables.close()
    await database.drop()
  })
  // Nobody answers, so all of them stay open.
  const env = { HOLDFAST_ROLES: 'http', HOLDFAST_SENDS_PER_MINUTE: '0', HOLDFAST_OPEN_TURNS: '3' }
  const open = () => startServer({ database: database.url, env })
  const [one, two] = await Promise.all([open(), open()])
  const [ann, there, bob] = await Promise.all([apiOf(one.url), apiOf(two.url), apiOf(two.url, 'bob')])
  const sessions = await Promise.all(['s0', 's1', 's2', 's3', 's4'].map((id) => ann.createSession(id)))
  const burst = await Promise.all(
    Array.from({ length: 50 }, (_, at) => post(at % 2 ? ann : there, sessions[at % 5]!, `m${at}`)),
  )
  const taken = burst.filter(({ status }) => status === 202)
  expect(taken).toHaveLength(3)
  expect(taken.map(({ headers }) => headers.get('ratelimit')).toSorted()).toEqual(
    [0, 1, 2].map((left) => `"open-turns";r=${left}`),
  )
  expect(taken[0]!.headers.get('ratelimit-policy')).toBe('"open-turns";q=3')
  expect(await tables.query('select count(*)::int as n from holdfast.turns')).toEqual([{ n: 3 }])
  expect(await told(burst.find(({ status }) => status !== 202)!)).toEqual({
    status: 429,
    code: 'rate_limited',
    detail:
      'At most 3 of your messages may wait for their replies at a time. Wait until one is answered, or stop one, and ask again for the same.',
    retryable: true,
    retryAfterMs: 5_000,
    policy: '"open-turns";q=3',
    limit: '"open-turns";r=0;t=5',
    retryAfter: '5',
  })
  expect((await post(bob, await bob.createSession())).status).toBe(202)
  // What was accepted is answered again, whatever is full.
  const [id] = burst.flatMap(({ status }, at) => (status === 202 ? [at] : []))
  expect((await post(there, sessions[id! % 5]!, `m${id}`)).status).toBe(202)

  await two.kill()
  const again = await apiOf((await open()).url)
  expect((await post(again, sessions[0]!)).status).toBe(429)
  await again.command(sessions[id! % 5]!, `m${id}`, 'stop')
  expect((await post(again, sessions[0]!, 'room')).status).toBe(202)
  // An edit of what waits opens none.
  expect((await post(again, sessions[0]!, 'edited', 'messages/room/edit')).status).toBe(200)
  expect((await post(again, sessions[0]!)).status).toBe(429)
})

test('fifty messages at once find the room of three open turns once, round after round (P221)', async () => {
  const stored = await openStored(18)
  onTestFinished(() => stored.close())
  const processes = [1, 2, 3, 4].map(() => createAcceptor(stored.open()))
  const sessions = await sessionsOf(stored.open(), 50)
  const more = { openTurns: 3, plan: null, budgets: [] }
  for (let round = 0; round < 4; round++) {
    const asked = sessions.map((id, at) => processes[at % 4]!.accept({ ...acceptanceOf(id), more }))
    const outcomes = (await Promise.all(asked)).map(({ outcome }) => outcome)
    expect(outcomes.filter((outcome) => outcome === 'created')).toHaveLength(3)
    await stored.query(`update holdfast.turns set state = 'stopped', due_at = null, expires_at = null`)
  }
})

test('a client shows until when one too many open turns waits, and sends it when there is room (P220, R2.3)', async () => {
  const scene = await openScene({ limits: { sendsPerMinute: 0, openTurns: 1 } })
  const handle = clientOf(scene).session(scene.session)
  onTestFinished(handle.subscribe(() => undefined))
  await handle.send({ text: 'slow one' })
  const second = handle.send({ text: 'two' })
  const waiting = () => {
    const shown = handle.getSnapshot().messages.find(({ parts }) => JSON.stringify(parts).includes('two'))
    return shown?.delivery?.state === 'waiting' && shown.delivery.retryAt !== null ? shown : undefined
  }
  await eventually(async () => waiting() !== undefined)
  scene.say(12)
  await scene.watcher.until(({ type }) => type === 'message.ai_response')
  await handle.retry(waiting()!.id)
  await second
  // A retry opens a turn as a message does.
  const { ann, session } = scene
  await scene.watcher.until(({ type, data }) => type === 'message.ai_response' && /Re two/.test(JSON.stringify(data)))
  await ann.send(session, 'slow', 'stopped')
  await eventually(async () =>
    (await ann.snapshot(session)).turns.some(({ messageId, state }) => messageId === 'stopped' && state === 'running'),
  )
  await ann.command(session, 'stopped', 'stop')
  await ann.send(session, 'slow', 'open')
  await expect(ann.command(session, 'stopped', 'retry')).rejects.toThrow(/^429 rate_limited: At most 1 of your/)
})

test('what a function answers of the user and their plan holds for connections, follows and what is sent to catch up; each refusal says what was reached and when it ends (P222, P223, P224)', async () => {
  const asked: unknown[] = []
  const { url, session, ann } = await openChat({
    limits: async (ask) => {
      asked.push(ask)
      if (ask.plan === 'free') return { sendsPerMinute: 0, connections: 2, follows: 3, resumeBytesPerMinute: 2 ** 20 }
      return { sendsPerMinute: 0 }
    },
  })
  const token = await tokenOf('eve', { plan: 'free' })
  const eve = (path: string, init: RequestInit = {}) =>
    fetch(`${url}${path}`, { ...init, headers: { authorization: `Bearer ${token}`, ...init.headers } })
  const own = async (id: string) => {
    const body = JSON.stringify({ id })
    await eve('/v1/sessions', { method: 'POST', body, headers: { 'content-type': 'application/json' } })
    return id
  }
  const mine = await Promise.all(['e1', 'e2', 'e3', 'e4'].map(own))
  expect(asked).toContainEqual({ user: { id: 'ann' }, tenant: { id: 'default' }, plan: undefined })

  const control = new AbortController()
  onTestFinished(() => control.abort())
  const stream = await eve(`/v1/sessions/${mine[0]}/events`, { signal: control.signal })
  expect(stream.status).toBe(200)
  const socket = await openRaw(`${url}/v1/realtime`, {
    protocols: ['holdfast.v1'],
    headers: { authorization: `Bearer ${token}` },
  })
  expect(asked).toContainEqual({ user: { id: 'eve' }, tenant: { id: 'default' }, plan: 'free' })
  const connections = 'At most 2 connections of yours may be open here at a time. Close some, then connect again.'
  const refused = { status: 429, code: 'rate_limited', retryable: true, retryAfterMs: 5_000, retryAfter: '5' }
  for (const path of [`/v1/sessions/${mine[1]}/events`, `/v1/events?sessions=${mine[1]}`]) {
    expect(await told(await eve(path))).toEqual({
      ...refused,
      detail: connections,
      policy: '"connections";q=2',
      limit: '"connections";r=0;t=5',
    })
  }
  const over = await openRaw(`${url}/v1/realtime`, {
    protocols: ['holdfast.v1'],
    headers: { authorization: `Bearer ${token}` },
  })
  expect(await over.ended).toEqual({ code: 4429, reason: connections })

  // One is followed by the stream.
  for (const [at, sessionId] of mine.slice(1).entries()) socket.say({ type: 'follow', sessionId, ref: `f${at}` })
  const problem = await socket.until(({ type }) => type === 'problem')
  expect(problem).toMatchObject({
    ref: 'f2',
    problem: {
      code: 'rate_limited',
      retryAfterMs: 5_000,
      detail:
        'At most 3 sessions may be followed here at a time, on all of your connections together. Unfollow one first.',
    },
  })
  socket.say({ type: 'unfollow', sessionId: mine[1]! })
  socket.say({ type: 'follow', sessionId: mine[3]!, ref: 'again' })
  await socket.until(({ type, ref }) => type === 'following' && ref === 'again')

  control.abort()
  const big = 'x'.repeat(100_000)
  for (let at = 0; at < 6; at++) {
    const body = JSON.stringify({ id: `m${at}`, text: big })
    const path = `/v1/sessions/${mine[0]}/messages`
    await eve(path, { method: 'POST', body, headers: { 'content-type': 'application/json' } })
  }
  const poll = () => eve(`/v1/sessions/${mine[0]}/events?wait=0`, { headers: { accept: 'application/json' } })
  await eventually(async () => (await poll()).status === 429)
  const { retryAfterMs, retryAfter, limit, ...more } = await told(await poll())
  expect(more).toEqual({
    status: 429,
    code: 'rate_limited',
    detail: 'At most 1,048,576 bytes of what you have missed are sent within a minute. Wait a moment and follow again.',
    retryable: true,
    policy: '"resume-bytes";q=1048576;qu="content-bytes";w=60',
  })
  expect(retryAfterMs).toBeGreaterThan(30_000)
  expect(retryAfter).toBe(String(Math.ceil(retryAfterMs / 1_000)))
  expect(limit).toBe(`"resume-bytes";r=0;t=${retryAfter}`)
  // Whoever has another plan is as free as before.
  expect((await ann.poll(session, {})).frames).toEqual(expect.any(Array))
})

test('what was caught up with is free again a minute after its first byte, and what comes live is not counted', () => {
  let nowMs = 0
  const here = createLimitsHere(() => nowMs)
  const ann = { tenantId: 't', userId: 'ann' }
  const sink = here.metered(ann, {
    send: () => undefined,
    control: () => undefined,
    room: () => null,
    end: () => undefined,
  })
  const frame = { cursor: 'c', json: 'x'.repeat(60) }
  sink.send([frame] as never)
  expect(here.resumesInMs(ann, 100)).toBe(0)
  nowMs = 20_000
  sink.send([frame] as never)
  expect(here.resumesInMs(ann, 100)).toBe(40_000)
  expect(here.resumesInMs(ann, 0)).toBe(0)
  expect(here.resumesInMs({ tenantId: 't', userId: 'bob' }, 100)).toBe(0)
  nowMs = 60_000
  expect(here.resumesInMs(ann, 100)).toBe(0)
  sink.control({ type: 'caught-up' })
  sink.send([frame, frame] as never)
  expect(here.resumesInMs(ann, 1)).toBe(0)
})

test('limits that are none are refused at the start, with what was expected; those of a plan go before those of all', async () => {
  const reply = () => 'x'
  const wrong: [unknown, string][] = [
    [5, 'limits: expected an object of limits, got number.'],
    [{ openTurns: 1.5 }, 'limits.openTurns: expected a whole number from 0 to 10000, got 1.5.'],
    [{ connections: 0 }, 'limits.connections: expected a whole number from 1 to 10000, got 0.'],
    [
      { resumeBytesPerMinute: 1 },
      'limits.resumeBytesPerMinute: expected 0, or a whole number from 1048576 to 1099511627776, got 1.',
    ],
    [{ plans: { pro: { sends: 1 } } }, 'limits.plans["pro"].sends: there is no such limit. See docs/limits.md.'],
    [{ plans: { pro: null } }, 'limits.plans["pro"]: expected an object of limits, got null.'],
    [{ plans: [] }, 'limits.plans: expected an object of limits, got object.'],
  ]
  for (const [limits, sentence] of wrong) {
    expect(() => createHoldfast({ reply, limits: limits as LimitsByPlan })).toThrow(new OptionError(sentence))
  }
  const { ann, session, url } = await openChat({
    limits: { sendsPerMinute: 1, plans: { pro: { sendsPerMinute: 2 } } },
  })
  expect((await post(ann, session)).headers.get('ratelimit-policy')).toBe('"sends";q=1;w=60')
  const token = await tokenOf('ann', { plan: 'pro' })
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const body = JSON.stringify({ id: 'pro', text: 'hi' })
  const sent = await fetch(`${url}/v1/sessions/${session}/messages`, { method: 'POST', headers, body })
  expect(sent.headers.get('ratelimit')).toMatch(/^"sends";r=0;t=(59|60)$/)
})

test('where a function answers no limits nothing is done, and the log says why', async () => {
  const lines: string[] = []
  let isBad = false
  const { ann, session } = await openChat({
    limits: () => (isBad ? ({ sends: 5 } as object) : {}),
    log: (line, detail) => lines.push(`${line} ${JSON.stringify(detail)}`),
  })
  isBad = true
  expect(await told(await post(ann, session))).toMatchObject({ status: 500, code: 'internal' })
  expect(lines.at(-1)).toMatch(/^internal .*limits.sends: there is no such limit/)
  isBad = false
  expect((await ann.snapshot(session)).messages).toEqual([])
})
