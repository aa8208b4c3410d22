/** Whoever uses it: by keyboard alone, and in a language that is written from right to left. */
import pg from 'pg'
import type { Page } from 'playwright-core'
import { expect, test } from 'vitest'
import { eventually } from '../support/eventually.ts'
import type { ProviderRequest } from '../support/provider.mjs'
import { buttonOn, composerOn, repliedOn, sendOn, untilStatusOn, untilStreamingOn, words } from './page.ts'
import { faultsOf, gatesOf, picture, type Stage, type Step, sceneForEach } from './stage.ts'

let stage: Stage
let page: Page
const gates = gatesOf()

const hebrew =
  'שלום! הפקודה היא `npm start`, ואחריה:\n\n- ראשון\n- שני\n\n```ts\nconst a = 1 // left to right\n```\n\nIn English, too.'

sceneForEach({ gates, answerTo }, (scene) => {
  ;({ stage, page } = scene)
})

function answerTo({ body }: ProviderRequest): Step[] {
  const said: string = body.messages.findLast(({ role }: { role: string }) => role === 'user').content
  if (said.includes('مرحبا')) return [{ text: hebrew }]
  if (said.includes('wait')) {
    return [{ text: `${words(0, 40)} ` }, { wait: gates.of(said).passed }, { text: words(40, 80) }]
  }
  return [{ text: `Re ${said}` }]
}

const focused = () =>
  page.evaluate(() => {
    const { activeElement: it } = document
    return it === document.body ? 'nothing' : (it?.getAttribute('aria-label') ?? it?.textContent?.trim() ?? '')
  })
const untilFocused = (wanted: RegExp) => eventually(async () => wanted.test(await focused()), 5_000)

/** What a mouse could use and Tab does not come to, and what does not show that it has the keyboard. */
async function notReached(): Promise<string[]> {
  await page.evaluate(() => {
    // From the beginning of the page.
    document.body.tabIndex = -1
    document.body.focus()
    document.body.removeAttribute('tabindex')
    const all = document.querySelectorAll<HTMLElement>('button, input, textarea, a[href], summary, [tabindex="0"]')
    for (const each of all) {
      const isUsable = each.checkVisibility({ visibilityProperty: true }) && !each.matches(':disabled, [inert] *')
      if (isUsable) each.dataset.usable = 'not reached'
    }
  })
  for (let presses = 0; presses < 100; presses++) {
    await page.keyboard.press('Tab')
    const isOver = await page.evaluate(() => {
      const it = document.activeElement as HTMLElement
      if (it === document.body || it.dataset.usable === 'reached') return true
      const { outlineStyle } = getComputedStyle(it)
      it.dataset.usable = outlineStyle !== 'none' || it.closest('.composer-box, .editor') ? 'reached' : 'not shown'
      return false
    })
    if (isOver && presses > 3) break
  }
  return await page.evaluate(() =>
    [...document.querySelectorAll<HTMLElement>('[data-usable]')].flatMap((it) => {
      const { usable } = it.dataset
      delete it.dataset.usable
      return usable === 'reached' ? [] : [`${usable}: ${it.outerHTML.slice(0, 160)}`]
    }),
  )
}

test('everything that a mouse can use Tab comes to, and shows it: the list, messages, their actions, the timeline, the panel', async () => {
  for (const text of ['first', 'second', 'third']) {
    await buttonOn(page, 'New chat').click()
    await sendOn(page, text)
    await repliedOn(page, new RegExp(`Re ${text}`)).waitFor()
  }
  await buttonOn(page, 'What happened').press('Enter')
  await page.getByRole('list', { name: 'What happened to this reply' }).getByText('Complete').waitFor()
  expect(await notReached()).toEqual([])
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await composerOn(page).fill('behind it')
  expect(await notReached()).toEqual([])
  gates.of('wait').open()
  await untilStatusOn(page, 'complete')
})

test('arrows go from chat to chat, and who deletes one is on the next, else on the one before, else on New chat', async () => {
  for (const text of ['first', 'second', 'third']) {
    await buttonOn(page, 'New chat').click()
    await sendOn(page, text)
    await repliedOn(page, new RegExp(`Re ${text}`)).waitFor()
  }
  const row = (title: string) => page.locator('.session-open').filter({ hasText: title })
  await row('third').focus()
  for (const [key, wanted] of [
    ['ArrowDown', /^second/],
    ['End', /^first/],
    ['ArrowUp', /^second/],
    ['Home', /^third/],
  ] as const) {
    await page.keyboard.press(key)
    await untilFocused(wanted)
  }
  const remove = async (title: string) => {
    await buttonOn(page, `Delete “${title}”`).press('Enter')
    await untilFocused(/^Keep/)
    await page.keyboard.press('Shift+Tab')
    await page.keyboard.press('Enter')
    await row(title).waitFor({ state: 'detached' })
  }
  // It is the one that is shown.
  await remove('third')
  await untilFocused(/^second/)
  await remove('first')
  await untilFocused(/^second/)
  await remove('second')
  await untilFocused(/^New chat/)
})

test('the keyboard is never lost: not with the Stop that is gone with its reply, nor with a Try now that is not needed any more', async () => {
  await sendOn(page, 'wait')
  await untilStreamingOn(page)
  await buttonOn(page, 'Stop').focus()
  gates.of('wait').open()
  await untilStatusOn(page, 'complete')
  await untilFocused(/^Message$/)
  stage.site.setDown(true)
  const again = page.getByRole('button', { name: /^Try now/ })
  await again.focus()
  stage.site.setDown(false)
  await page.keyboard.press('Enter')
  await again.waitFor({ state: 'detached' })
  await untilFocused(/^Message$/)
})

test('Arabic and Hebrew stand from right to left in messages, replies, titles, the list and the field; code does not', async () => {
  await sendOn(page, 'مرحبا، شغّل `npm start` من فضلك')
  await untilStatusOn(page, 'complete')
  await page.locator('.reply-text .code-block').waitFor()
  const direction = (of: string) =>
    page
      .locator(of)
      .first()
      .evaluate((it) => getComputedStyle(it).direction)
  await composerOn(page).fill('שלום')
  for (const of of ['.own-text', '.reply-text ul', 'h1', '.session-open .font-medium', '.composer textarea']) {
    expect([of, await direction(of)]).toEqual([of, 'rtl'])
  }
  for (const of of ['.reply-text .code-block', '.reply-text p code'])
    expect([of, await direction(of)]).toEqual([of, 'ltr'])
  // Each paragraph begins at the side of its own language.
  const sides = await page.locator('.reply-text p').evaluateAll((all) =>
    all.map((it) => {
      const range = document.createRange()
      range.selectNodeContents(it)
      return range.getBoundingClientRect().left - it.getBoundingClientRect().left > 20 ? 'right' : 'left'
    }),
  )
  expect(sides).toEqual(['right', 'left'])
  await picture(page, 'right-to-left')
  expect(await faultsOf(page, 'right to left')).toEqual([])
})

test('a page whose own direction is from right to left is its mirror image, on a phone, too', async () => {
  await sendOn(page, 'مرحبا')
  await untilStatusOn(page, 'complete')
  await page.evaluate(() => {
    document.documentElement.dir = 'rtl'
  })
  const edges = (of: string) =>
    page.locator(of).evaluate((it) => [it.getBoundingClientRect().left, it.getBoundingClientRect().right])
  expect((await edges('.sidebar'))[1]).toBe(1280)
  expect((await edges('.panel'))[0]).toBe(0)
  expect((await edges('.own'))[0]).toBeLessThan(640)
  await picture(page, 'mirrored')
  expect(await faultsOf(page, 'mirrored')).toEqual([])
  await page.setViewportSize({ width: 390, height: 844 })
  // It slides in from its own side.
  await eventually(async () => (await edges('.sidebar'))[0] === 390)
  await buttonOn(page, 'Show chats').click()
  await eventually(async () => (await edges('.sidebar'))[1] === 390)
})

test('what is far is found by the browser’s own search, and is read out from there with who wrote it', async () => {
  await sendOn(page, 'message 0')
  await untilStatusOn(page, 'complete')
  const { origin, hash } = new URL(page.url())
  const path = `${origin}/v1/sessions/${hash.slice(2)}/messages`
  for (let at = 1; at < 20; at++) {
    const sent = await page.request.post(`${path}?wait=10`, { data: { id: `m${at}`, text: `message ${at}` } })
    expect(sent.status()).toBe(200)
  }
  const client = new pg.Client({ connectionString: stage.database.url })
  await client.connect()
  await client.query(`update holdfast.messages set author = 'ann' where id = 'm3'`)
  await client.end()
  await page.reload()
  await page.getByRole('status').getByText('Live', { exact: true }).waitFor()
  await page.locator('.group.is-far [data-message="m3"][aria-label="ann"]').waitFor({ state: 'attached' })
  const found = await page.evaluate(() => {
    const { find } = window as unknown as { find(text: string, isExact: boolean, isBackwards: boolean): boolean }
    return find.call(window, 'Re message 3', true, true)
  })
  expect(found).toBe(true)
  const devtools = await page.context().newCDPSession(page)
  await eventually(async () => {
    const { nodes } = await devtools.send('Accessibility.getFullAXTree')
    const byId = new Map(nodes.map((node) => [node.nodeId, node]))
    const textIn = (id: string): string => {
      const node = byId.get(id)
      const own = node?.role?.value === 'StaticText' ? String(node.name?.value) : ''
      return own + (node?.childIds ?? []).map(textIn).join('')
    }
    const said = nodes
      .filter(({ role }) => role?.value === 'article')
      .map(({ nodeId, name }) => `${name?.value}: ${textIn(nodeId)}`)
    return ['ann: message 3', 'Reply: Re message 3'].every((start) => said.some((each) => each.startsWith(start)))
  })
})
