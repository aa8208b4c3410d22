/** Who asks: guests by their cookie, users by their tokens. */
import { once } from 'node:events'
import { createServer, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { freshDatabase } from '../support/postgres.ts'
import { jwtSecret, startServer, type TestServer, tokenOf } from '../support/server.ts'

let database: Awaited<ReturnType<typeof freshDatabase>>
beforeEach(async () => {
  database = await freshDatabase(18)
})
afterEach(() => database.drop())

const json = { 'content-type': 'application/json' }
const create = (server: TestServer, headers: Record<string, string> = {}) =>
  fetch(`${server.url}/v1/sessions`, { method: 'POST', headers: { ...json, ...headers }, body: '{}' })

const withGuests = (env: Record<string, string> = {}) =>
  startServer({ database: database.url, env: { HOLDFAST_JWT_SECRET: '', HOLDFAST_ROLES: 'http', ...env } })

type Guest = { cookie: string; session: string }
async function becomeGuest(server: TestServer): Promise<Guest> {
  const created = await create(server)
  expect(created.status).toBe(201)
  const [cookie = ''] = created.headers.getSetCookie()
  expect(cookie).toMatch(/^holdfast_guest=[\w-]{32}; Path=\/; HttpOnly; SameSite=Lax; Max-Age=\d+$/)
  return { cookie: cookie.slice(0, cookie.indexOf(';')), session: ((await created.json()) as { id: string }).id }
}

test('a guest is known by a cookie that no script can read, and sees only their own sessions, and is told who they are (P10, P11, I15)', async () => {
  const server = await withGuests()
  const [one, two] = [await becomeGuest(server), await becomeGuest(server)]
  const statusFor = async ({ cookie }: Guest, path: string) =>
    (await fetch(`${server.url}${path}`, { headers: { cookie } })).status
  for (const [guest, own, foreign] of [
    [one, one.session, two.session],
    [two, two.session, one.session],
  ] as const) {
    expect(await statusFor(guest, `/v1/sessions/${own}`)).toBe(200)
    expect(await statusFor(guest, `/v1/sessions/${foreign}`)).toBe(404)
    expect(await statusFor(guest, `/v1/sessions/${foreign}/events`)).toBe(404)
  }
  // Only making a session makes a guest.
  for (const path of ['/v1/sessions', '/v1/me']) {
    const answer = await fetch(`${server.url}${path}`)
    expect([path, answer.status, answer.headers.getSetCookie()]).toEqual([path, 401, []])
  }
  // By the name that stands in what they wrote, and no other.
  const { members } = (await (
    await fetch(`${server.url}/v1/sessions/${one.session}`, { headers: { cookie: one.cookie } })
  ).json()) as { members: { userId: string }[] }
  const me = await fetch(`${server.url}/v1/me`, { headers: { cookie: one.cookie } })
  expect(await me.json()).toEqual({ userId: members[0]!.userId })
  const again = await create(server, { cookie: one.cookie })
  expect(again.headers.getSetCookie()).toEqual([])
})

test('who sees a guest’s user id cannot become the guest', async () => {
  const server = await withGuests()
  const guest = await becomeGuest(server)
  const path = `/v1/sessions/${guest.session}/messages`
  const sent = await fetch(`${server.url}${path}`, {
    method: 'POST',
    headers: { ...json, cookie: guest.cookie },
    body: JSON.stringify({ id: 'm1', text: 'hi' }),
  })
  const { message } = (await sent.json()) as { message: { author: string } }
  expect(message.author).toMatch(/^guest-[\w-]{22}$/)
  const secret = guest.cookie.replace('holdfast_guest=', '')
  expect(message.author).not.toContain(secret.slice(0, 8))
  const id = message.author.replace('guest-', '')
  for (const forged of [message.author, id, id.padEnd(32, '0'), `${id}${id}`]) {
    const answered = await fetch(`${server.url}${path}`, { headers: { cookie: `holdfast_guest=${forged}` } })
    expect([401, 404]).toContain(answered.status)
  }
})

/** `fetch` does not let anybody set the host. */
function statusAs(server: TestServer, host: string): Promise<number | undefined> {
  const { port } = new URL(server.url)
  return new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, path: '/v1/sessions', method: 'POST', headers: { ...json, host } })
    asked.on('response', (response) => {
      response.resume()
      resolve(response.statusCode)
    })
    asked.on('error', reject)
    asked.end('{}')
  })
}

test('guests exist only where the browser used a name of this machine: a page whose own name leads here is refused', async () => {
  const server = await withGuests()
  for (const host of [
    'localhost',
    'localhost:3000',
    'chat.localhost',
    '127.0.0.1',
    '127.1.2.3:80',
    '[::1]',
    '[::1]:3000',
  ]) {
    expect([host, await statusAs(server, host)]).toEqual([host, 201])
  }
  for (const host of [
    'evil.example',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    '127.evil.example',
    'notlocalhost',
    'localhost.',
    '10.0.0.1',
    '0.0.0.0',
    '[::2]',
  ]) {
    expect([host, await statusAs(server, host)]).toEqual([host, 401])
  }
})

test('a server that is reached from elsewhere, or told so, has no guests', async () => {
  const everywhere = await withGuests({ HOST: '0.0.0.0' })
  const off = await withGuests({ HOLDFAST_GUESTS: 'off' })
  expect([await statusAs(everywhere, 'localhost'), await statusAs(off, 'localhost')]).toEqual([401, 401])
  const on = await withGuests({ HOST: '0.0.0.0', HOLDFAST_GUESTS: 'on' })
  expect(await statusAs(on, 'chat.example.org')).toBe(201)
})

test('a connection ends when the token that opened it does (I15)', async () => {
  const server = await startServer({ database: database.url })
  const bearer = async (expiresIn: string | number) => ({
    authorization: `Bearer ${await tokenOf('ann', { expiresIn })}`,
  })
  const { id } = (await (await create(server, await bearer('1h'))).json()) as { id: string }
  const expires = Math.floor(Date.now() / 1000) + 2
  const headers = await bearer(expires)
  const [stream, poll] = await Promise.all([
    fetch(`${server.url}/v1/sessions/${id}/events`, { headers }),
    fetch(`${server.url}/v1/sessions/${id}/events?wait=50`, { headers: { ...headers, accept: 'application/json' } }),
  ])
  expect([stream.status, poll.status]).toEqual([200, 200])
  // Both end by themselves; without an end this waits for ever.
  expect(await stream.text()).toContain('caught-up')
  expect(((await poll.json()) as { frames: unknown[] }).frames).toEqual([])
  expect(Date.now()).toBeGreaterThanOrEqual(expires * 1000)
  expect((await fetch(`${server.url}/v1/sessions/${id}/events`, { headers })).status).toBe(401)
})

const issuer = 'https://issuer.example'
const audience = 'holdfast-tests'

/** An issuer's keys over HTTP; `down` answers 500 instead. */
async function startIssuer() {
  const [good, other] = [await generateKeyPair('ES256'), await generateKeyPair('ES256')]
  const state = { down: false, asked: 0 }
  const jwk = { ...(await exportJWK(good.publicKey)), kid: 'k1', alg: 'ES256', use: 'sig' }
  const server: Server = createServer((_request, response) => {
    state.asked++
    response.writeHead(state.down ? 500 : 200, json).end(JSON.stringify({ keys: [jwk] }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const sign = (how: { key?: CryptoKey; issuer?: string; audience?: string; expires?: string | null } = {}) => {
    const token = new SignJWT({}).setProtectedHeader({ alg: 'ES256', kid: 'k1' }).setSubject('ann')
    token.setIssuer(how.issuer ?? issuer).setAudience(how.audience ?? audience)
    if (how.expires !== null) token.setExpirationTime(how.expires ?? '1h')
    return token.sign(how.key ?? good.privateKey)
  }
  const stop = async () => {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  }
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`
  return { url, state, sign, otherKey: other.privateKey, publicKey: jwk, stop }
}

test('tokens of an issuer are checked with its keys, its name and its audience (P12)', async () => {
  const keys = await startIssuer()
  const env = {
    HOLDFAST_JWT_SECRET: '',
    HOLDFAST_JWKS_URL: keys.url,
    HOLDFAST_JWT_ISSUER: issuer,
    HOLDFAST_JWT_AUDIENCE: audience,
  }
  const server = await startServer({ database: database.url, env: { ...env, HOLDFAST_ROLES: 'http' } })
  const statusOf = async (token: string) => (await create(server, { authorization: `Bearer ${token}` })).status
  // Without keys nobody can say whether a token is good: users are not signed out by it.
  keys.state.down = true
  expect(await statusOf(await keys.sign())).toBe(503)
  keys.state.down = false
  expect(await statusOf(await keys.sign())).toBe(201)
  expect(keys.state.asked).toBeGreaterThan(1)
  const confused = new SignJWT({}).setProtectedHeader({ alg: 'HS256', kid: 'k1' }).setSubject('ann').setIssuer(issuer)
  confused.setAudience(audience).setExpirationTime('1h')
  for (const [what, token] of [
    ['another key', await keys.sign({ key: keys.otherKey })],
    ['another issuer', await keys.sign({ issuer: 'https://evil.example' })],
    ['another audience', await keys.sign({ audience: 'another-app' })],
    ['expired', await keys.sign({ expires: '-1 minute' })],
    ['without an end', await keys.sign({ expires: null })],
    ['the public key as a secret', await confused.sign(new TextEncoder().encode(JSON.stringify(keys.publicKey)))],
    ['the tests’ usual secret', await tokenOf('ann')],
    ['no token at all', 'a.b.c'],
  ]) {
    expect([what, await statusOf(token!)]).toEqual([what, 401])
  }
  await keys.stop()
})

test('with a secret, issuer and audience are checked where they are set (P12)', async () => {
  const env = { HOLDFAST_JWT_ISSUER: issuer, HOLDFAST_JWT_AUDIENCE: audience, HOLDFAST_ROLES: 'http' }
  const server = await startServer({ database: database.url, env })
  const sign = (by: string, to: string) =>
    new SignJWT({})
      .setProtectedHeader({ alg: 'HS256' })
      .setSubject('ann')
      .setIssuer(by)
      .setAudience(to)
      .setExpirationTime('1h')
      .sign(new TextEncoder().encode(jwtSecret))
  const statusOf = async (token: string) => (await create(server, { authorization: `Bearer ${token}` })).status
  expect(await statusOf(await sign(issuer, audience))).toBe(201)
  expect(await statusOf(await sign('https://evil.example', audience))).toBe(401)
  expect(await statusOf(await sign(issuer, 'another-app'))).toBe(401)
  expect(await statusOf(await tokenOf('ann'))).toBe(401)
})
