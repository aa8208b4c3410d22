/** `holdfast demo` itself, as a newcomer meets it: one command, the page, and the button that kills the server. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { endCommands, startCommand } from '../support/command.ts'
import { startBrowser } from './support.ts'

const cleanUps: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await endCommands()
  for (const each of cleanUps.splice(0)) await each()
})

test('the first message of a newcomer survives the server, which the page itself has killed (R1.1, R1.7, I9)', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-newcomer-'))
  cleanUps.push(() => rm(folder, { recursive: true, force: true }))
  const demo = startCommand([], { cwd: folder })
  const url = (await demo.said(/Holdfast {2,}(http:\/\/\S+)/))[1]!
  const browser = await startBrowser()
  cleanUps.push(() => browser.close())
  const page = await browser.newPage()
  await page.goto(url)
  await page.getByLabel('Message', { exact: true }).fill('hello')
  await page.keyboard.press('Enter')
  const steps = page.getByRole('list', { name: 'What happened to the last message' }).locator('.knot-label')
  await steps.getByText('Attempt 1').waitFor()
  await page.getByRole('main').getByText('I am the demo model').waitFor()
  await page.getByRole('button', { name: 'Kill the server' }).click()
  await demo.said(/the server ended \(SIGKILL\), starting it again/)
  await steps.getByText('Complete').waitFor({ timeout: 60_000 })
  expect(await steps.allTextContents()).toEqual(['Stored', 'Queued', 'Attempt 1', 'Killed', 'Attempt 2', 'Complete'])

  // What stands there is what is stored: each paragraph that the API has, once.
  const sessionId = new URL(page.url()).hash.replace('#/', '')
  const stored = (await page.evaluate(
    async (id) => (await (await fetch(`/v1/sessions/${id}`)).json()).messages[1].parts,
    sessionId,
  )) as { type: string; text?: string }[]
  const plain = (text: string) =>
    text
      .replaceAll('`', '')
      .replaceAll(/[>\s]+/g, ' ')
      .trim()
  const shown = plain(await page.getByRole('article', { name: 'Reply' }).innerText())
  const paragraphs = stored
    .flatMap(({ text = '' }) => text.split('\n\n'))
    .map(plain)
    .filter(Boolean)
  expect(paragraphs.length).toBeGreaterThan(2)
  expect(paragraphs.filter((each) => shown.split(each).length !== 2)).toEqual([])
}, 120_000)
