/** Two people in one chat, each in a browser of their own: P147–P154, P157 as people meet them. */
import type { BrowserContext, Page } from 'playwright-core'
import { afterEach, expect, test } from 'vitest'
import { queryOnce } from '../support/postgres.ts'
import { buttonOn, composerOn, ownOn, repliedOn, sendOn, untilStreamingOn } from './page.ts'
import { faultsOf, gatesOf, openTab, picture, type Stage, sceneForEach } from './stage.ts'

const gates = gatesOf()
let stage: Stage
let page: Page
let context: BrowserContext
let complaints: string[]
const others: BrowserContext[] = []
sceneForEach({ gates }, (scene) => {
  ;({ stage, page, context, complaints } = scene)
})
// Before the scene looks whether a connection is still open.
afterEach(() => Promise.all(others.splice(0).map((each) => each.close())))

const guest = /Guest .{4}/
const peopleOn = (tab: Page) => tab.getByRole('button', { name: /^People/ })
const panelOn = (tab: Page) => tab.getByRole('dialog', { name: 'People in this chat' })
const comingOn = (tab: Page, text: RegExp) => tab.locator('.coming').getByText(text)
/** As wide as at the beginning, after pictures. */
const wide = (tab: Page) => tab.setViewportSize({ width: 1280, height: 844 })

async function stranger(path: string): Promise<Page> {
  const other = await stage.browser.newContext({ viewport: { width: 1280, height: 844 } })
  others.push(other)
  return await openTab(other, new URL(path, stage.site.origin).href, complaints)
}

const sessionPath = () => `${stage.site.origin}/v1/sessions/${new URL(page.url()).hash.slice(2)}`

async function inviteByApi(asked: object = {}): Promise<{ id: string; token: string }> {
  const made = await context.request.post(`${sessionPath()}/invites`, { data: asked })
  expect(made.status()).toBe(201)
  return (await made.json()) as { id: string; token: string }
}

/** Somebody else, who has joined this page's chat and is live there. */
async function joined(asked: object = {}): Promise<Page> {
  const { token } = await inviteByApi(asked)
  const other = await stranger(`/#/invite/${token}`)
  await buttonOn(other, 'Join').click()
  await other.getByRole('status').getByText('Live', { exact: true }).waitFor()
  return other
}

async function begin(text = 'hello'): Promise<void> {
  await sendOn(page, text)
  await repliedOn(page, new RegExp(`Re ${text}`)).waitFor()
}

test('R3.1: who is invited by a link joins with one button, and both see what is said, who is there, who writes, who has read', async () => {
  await begin()
  await peopleOn(page).click()
  const panel = panelOn(page)
  await panel.getByLabel('Good for').selectOption({ label: 'an hour' })
  await panel.getByRole('button', { name: 'Make a link' }).click()
  const link = await panel.getByLabel('Invitation link').inputValue()
  await panel.getByRole('list', { name: 'Open invitations' }).getByText('Member, 1 person').waitFor()
  await picture(page, 'invite')
  expect(await faultsOf(page, 'invite')).toEqual([])
  await wide(page)

  const other = await stranger(link)
  await other.getByRole('heading', { name: 'You are invited to a chat.' }).waitFor()
  await picture(other, 'invitation')
  expect(await faultsOf(other, 'invitation')).toEqual([])
  await wide(other)
  await buttonOn(other, 'Join').click()
  await ownOn(other, 'hello').getByText(guest).waitFor()
  expect(other.url()).not.toContain('invite')

  // It is used up, and they are there.
  await panel.getByRole('list', { name: 'Open invitations' }).waitFor({ state: 'detached' })
  await panel.getByText('here', { exact: true }).waitFor()
  await other.getByRole('status').getByText('Live', { exact: true }).waitFor()
  await composerOn(other).pressSequentially('I wri')
  await panel.getByText('writing…').waitFor()
  await picture(page, 'people')
  expect(await faultsOf(page, 'people')).toEqual([])
  await wide(page)
  await page.keyboard.press('Escape')
  await panel.waitFor({ state: 'detached' })
  await comingOn(page, /^Guest .{4} joined, invited by you$/).waitFor()
  await page
    .getByRole('status')
    .getByText(/is writing…/)
    .waitFor()

  // The other one's screen is looked at, and so read.
  await ownOn(page, 'hello')
    .getByTitle(/^Read by Guest .{4}$/)
    .waitFor()
  await composerOn(other).fill('')
  await sendOn(other, 'wait')
  await untilStreamingOn(other)
  await ownOn(page, 'wait').getByText(guest).waitFor()
  await page.locator('.in-chat').getByText('The assistant is writing…').waitFor()
  await picture(page, 'several')
  expect(await faultsOf(page, 'several')).toEqual([])
  await wide(page)
  gates.of('wait').open()
  await repliedOn(page, /word79/).waitFor()

  await other.close()
  await page.getByRole('button', { name: /^People: you, Guest .{4} \(not here\)$/ }).waitFor()
}, 90_000)

test('P151, P154: another role holds at once on the other’s screen, and who is removed is told so within 5 s', async () => {
  await begin()
  const other = await joined()
  await composerOn(other).fill('half a thought')
  await peopleOn(page).click()
  const panel = panelOn(page)
  await panel.getByLabel(/^Role of Guest/).selectOption('reader')
  await other.getByText('You may read this chat, and not write in it.').waitFor()
  expect(await composerOn(other).count()).toBe(0)
  await comingOn(other, /^Guest .{4} made you a reader$/).waitFor()
  await panel.getByLabel(/^Role of Guest/).selectOption('member')
  await composerOn(other).waitFor()
  expect(await composerOn(other).inputValue()).toBe('half a thought')

  const remove = panel.getByRole('button', { name: /^Remove Guest/ })
  await remove.click()
  await picture(page, 'remove')
  expect(await faultsOf(page, 'remove')).toEqual([])
  await wide(page)
  // It asks, and Escape is no yes; nor does it close what asks.
  await page.keyboard.press('Escape')
  await buttonOn(page, 'Keep').waitFor({ state: 'detached' })
  await remove.click()
  await panel.getByRole('group').getByRole('button', { name: 'Remove' }).click()
  await other.getByText('You are not in this chat any more.').waitFor({ timeout: 5_000 })
  await other.locator('.kept-draft').getByText('half a thought').waitFor()
  expect(await ownOn(other, 'hello').count()).toBe(0)
  await picture(other, 'removed')
  expect(await faultsOf(other, 'removed')).toEqual([])
  await remove.waitFor({ state: 'detached' })
  await page.keyboard.press('Escape')
  await comingOn(page, /^Guest .{4} was removed by you$/).waitFor()
}, 30_000)

test('P151, P196: everybody may mute the chat, and leave; the only owner is told why not', async () => {
  await begin()
  const other = await joined()
  await peopleOn(page).click()
  const mute = panelOn(page).getByRole('switch', { name: 'Mute this chat', checked: false })
  await mute.click()
  await panelOn(page).getByText('None of your devices is told of it.').waitFor()
  const { data } = (await (await context.request.get(`${sessionPath()}/members`)).json()) as { data: object[] }
  expect(data).toEqual([expect.objectContaining({ muted: true }), expect.not.objectContaining({ muted: true })])
  await page.keyboard.press('Escape')
  await peopleOn(page).click()
  await panelOn(page).getByRole('switch', { name: 'Mute this chat', checked: true }).waitFor()
  await buttonOn(page, 'Leave this chat').click()
  await buttonOn(page, 'Leave').click()
  await page
    .getByRole('alert')
    .getByText('This is the only owner of the session. Make another member an owner')
    .waitFor()
  await page.keyboard.press('Escape')
  await page.keyboard.press('Escape')
  await peopleOn(other).click()
  expect(await panelOn(other).getByRole('combobox').count()).toBe(0)
  await buttonOn(other, 'Leave this chat').click()
  await buttonOn(other, 'Leave').click()
  await other.getByText('You are free to leave.').waitFor()
  await comingOn(page, /^Guest .{4} left$/).waitFor()
}, 20_000)

test('P152, P153: a link that is over says so and what to do; who is in the chat goes straight in', async () => {
  await begin()
  const { token } = await inviteByApi({ uses: 2 })
  await peopleOn(page).click()
  await panelOn(page).getByRole('button', { name: 'Revoke: Member, 2 people' }).click()
  await panelOn(page).getByRole('list', { name: 'Open invitations' }).waitFor({ state: 'detached' })
  const other = await stranger(`/#/invite/${token}`)
  await buttonOn(other, 'Join').click()
  await other.getByText('This invitation was used up, revoked, or is too old. Ask for a new one.').waitFor()
  await picture(other, 'over')
  expect(await faultsOf(other, 'over')).toEqual([])

  const good = await inviteByApi()
  await other.goto(`${stage.site.origin}/#/invite/${good.token}`)
  await buttonOn(other, 'Join').click()
  await ownOn(other, 'hello').waitFor()
  await other.goto(`${stage.site.origin}/#/invite/${good.token}`)
  await ownOn(other, 'hello').waitFor()
  expect(new URL(other.url()).hash).toBe(new URL(page.url()).hash)
}, 20_000)

test('P157: what is said in a private lane is marked as seen by nobody else', async () => {
  await begin()
  await queryOnce(stage.database.url, `update holdfast.messages set lane = 'private:' || author where role = 'user'`)
  await page.reload()
  await ownOn(page, 'hello').getByText('Only you see this').waitFor()
}, 20_000)
