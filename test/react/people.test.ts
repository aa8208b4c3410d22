/** Who is there, what goes on and who has read it, as the hooks show it, and what a page says of itself (R2.4, P143, P146–P149). */
import { randomUUID } from 'node:crypto'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import { queryOnce } from '../support/postgres.ts'
import { openScene, type Scene, sendOn, untilShown, untilState } from './scene.ts'

let scene: Scene
beforeAll(async () => {
  scene = await openScene()
})
afterAll(() => scene.close())

/** As where another tab is looked at. */
const setVisible = (page: Page, isVisible: boolean) =>
  page.evaluate(
    (state) => {
      Object.defineProperty(document, 'visibilityState', { value: state, configurable: true })
      document.dispatchEvent(new Event('visibilitychange'))
    },
    isVisible ? 'visible' : 'hidden',
  )

test('a page in the background is away, of several only when all are, over a socket and a stream that tabs share; the hooks show the others', async () => {
  const complaints: string[] = []
  const context = await scene.browser.newContext()
  const [alone, shared] = [randomUUID(), randomUUID()]
  for (const id of [alone, shared]) await scene.chat.sessions.create({ id, userId: 'ann' })
  const page = await scene.open(context, alone, 'websocket', complaints)
  const [tab, other] = [
    await scene.open(context, shared, 'sse', complaints),
    await scene.open(context, shared, 'sse', complaints),
  ]
  for (const each of [page, tab, other]) await untilState(each, { phase: 'ready', isLive: true })
  const untilAnnIs = (id: string, state: string) =>
    eventually(async () => (await scene.chat.presence(id)).map((each) => each.state).join() === state)
  for (const id of [alone, shared]) await untilAnnIs(id, 'here')
  await setVisible(page, false)
  await setVisible(tab, false)
  await untilAnnIs(alone, 'away')
  expect(await scene.chat.presence(shared)).toEqual([{ userId: 'ann', state: 'here' }])
  await setVisible(other, false)
  await untilAnnIs(shared, 'away')
  await setVisible(page, true)
  await setVisible(tab, true)
  for (const id of [alone, shared]) await untilAnnIs(id, 'here')

  const people = async () => JSON.parse((await page.locator('#people').textContent())!) as Record<string, unknown>
  const untilPeople = async (key: string, expected: unknown) => {
    await eventually(async () => JSON.stringify((await people())[key]) === JSON.stringify(expected))
  }
  expect(await people()).toEqual({ present: [], activity: [], readBy: [] })
  await queryOnce(
    scene.database,
    `insert into holdfast.members (tenant_id, session_id, user_id, role) values ('default', '${alone}', 'bob', 'member')`,
  )
  const url = `http://${scene.proxy.host}:${scene.proxy.port}/v1/sessions/${alone}`
  const asBob = { 'x-user': 'bob', 'content-type': 'application/json' }
  const following = new AbortController()
  const stream = await fetch(`${url}/events?presence=away`, { headers: asBob, signal: following.signal })
  expect(stream.status).toBe(200)
  await untilPeople('present', [{ userId: 'bob', state: 'away' }])
  following.abort()

  await sendOn(page, 'slow')
  const doing = async () => ((await people()).activity as { assistant?: string }[]).map(({ assistant }) => assistant)
  await eventually(async () => (await doing()).join() === 'thinking')
  scene.say(2)
  await eventually(async () => (await doing()).join() === 'writing')
  scene.say(4)
  await untilShown(page, 'user: slow', 'assistant: 0 1 2 3 4 5 ')
  await untilPeople('activity', [])
  const typing = { method: 'POST', headers: asBob, body: JSON.stringify({ isTyping: true }) }
  expect((await fetch(`${url}/typing`, typing)).status).toBe(204)
  await untilPeople('activity', [{ userId: 'bob', doing: 'typing' }])
  await page.reload()
  await untilState(page, { phase: 'ready', isLive: true })
  await page.locator('li[data-delivery="sent"]').waitFor()
  const { cursor } = (await (await fetch(url, { headers: asBob })).json()) as { cursor: string }
  await fetch(`${url}/receipts`, { method: 'POST', headers: asBob, body: JSON.stringify({ read: cursor }) })
  await page.locator('li[data-delivery="read"]').waitFor()
  await untilPeople('readBy', ['bob'])
  await untilPeople('present', [])
  await context.close()
  expect(complaints).toEqual([])
})
