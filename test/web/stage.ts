/** What the tests of the app share: everything that one needs is up, tabs that complain, and what axe finds. */
import { mkdir } from 'node:fs/promises'
import axe from 'axe-core'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, expect } from 'vitest'
import { gate } from '../faults/scene.ts'
import { eventually } from '../support/eventually.ts'
import { freshDatabase } from '../support/postgres.ts'
import { type Provider, type ProviderRequest, type Script, startProvider } from '../support/provider.mjs'
import { words } from './page.ts'
import { type Assets, buildWeb, type Site, startBrowser, startSite } from './support.ts'

export type Stage = {
  assets: Assets
  browser: Browser
  provider: Provider
  database: { url: string }
  site: Site
  close(): Promise<void>
}

export async function openStage(): Promise<Stage> {
  const [assets, browser, provider, database] = await Promise.all([
    buildWeb('app'),
    startBrowser(),
    startProvider(),
    freshDatabase(18),
  ])
  const site = await startSite({ dir: assets.dir, database: database.url, provider: provider.url })
  return {
    ...{ assets, browser, provider, database, site },
    async close() {
      await site.close()
      await Promise.all([browser.close(), provider.stop(), assets.remove(), database.drop()])
    },
  }
}

export type Scene = {
  stage: Stage
  /** Of this test: a guest of its own, and what its tabs have complained of. */
  context: BrowserContext
  page: Page
  complaints: string[]
}
type SceneOptions = {
  gates: ReturnType<typeof gatesOf>
  /** What is said to a message. Default: `saidTo`. */
  answerTo?(request: ProviderRequest): Step[]
  /** Of the window. */
  height?: number
}

/** One stage for all tests of a file, and for each of them a browser of its own with a tab on it, which may not complain. */
export function sceneForEach(options: SceneOptions, begin: (scene: Scene) => void): void {
  const { gates, height = 844, answerTo = (request) => saidTo(request, gates) } = options
  let stage: Stage
  let scene: Scene
  beforeAll(async () => {
    stage = await openStage()
  })
  afterAll(() => stage.close())
  beforeEach(async () => {
    stage.site.passed.length = 0
    stage.site.setDown(false)
    gates.clear()
    stage.provider.script(answerTo)
    const context = await stage.browser.newContext({ viewport: { width: 1280, height } })
    const complaints: string[] = []
    scene = { stage, context, page: await openTab(context, stage.site.origin, complaints), complaints }
    begin(scene)
  })
  afterEach(async () => {
    stage.site.setDown(false)
    await scene.context.close()
    // The next test counts its own.
    await eventually(async () => stage.site.openStreams() === 0)
    expect(scene.complaints).toEqual([])
  })
}

/** The end of `wait` comes when its gate is opened; all else is answered at once. */
export function saidTo({ body }: ProviderRequest, gates: ReturnType<typeof gatesOf>): Step[] {
  const said: string = body.messages.findLast(({ role }: { role: string }) => role === 'user').content
  if (!said.includes('wait')) return [{ text: `Re ${said}` }]
  return [{ text: `${words(0, 40)} ` }, { wait: gates.of(said).passed }, { text: words(40, 80) }]
}

/** `complaints` gets what the browser says of it: refused by the policy, or thrown. */
export async function openTab(context: BrowserContext, url: string, complaints: string[]): Promise<Page> {
  const tab = await context.newPage()
  tab.on('pageerror', (error) => complaints.push(String(error)))
  tab.on('console', (message) => {
    if (/Content Security Policy|violates/i.test(message.text())) complaints.push(message.text())
  })
  await tab.goto(url)
  return tab
}

export type Step = Extract<Script, unknown[]>[number]

/** Gates by name: who waits at one passes when it is opened, before or after. */
export function gatesOf() {
  const gates = new Map<string, { passed: Promise<void>; open(): void }>()
  return {
    of(name: string) {
      const there = gates.get(name) ?? gate()
      gates.set(name, there)
      return there
    },
    clear: () => gates.clear(),
  }
}

type Shot = { width: 390 | 1280; colorScheme: 'light' | 'dark' }
const allShots = (['light', 'dark'] as const).flatMap((colorScheme) =>
  ([390, 1280] as const).map((width): Shot => ({ width, colorScheme })),
)

/** Into a folder, for people to look at, where one is named. */
export async function picture(tab: Page, name: string, shots: readonly Shot[] = allShots): Promise<void> {
  const dir = process.env.HOLDFAST_TEST_PICTURES
  if (dir === undefined) return
  await mkdir(dir, { recursive: true })
  for (const { width, colorScheme } of shots) {
    await tab.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    await tab.setViewportSize({ width, height: 844 })
    await tab.screenshot({ path: `${dir}/${name}-${width}-${colorScheme}.png` })
  }
}

/** What the page is asked for has no bound of its own. */
async function answeredIn<T>(ms: number, asked: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(what)), ms)
  })
  return await Promise.race([asked, late]).finally(() => clearTimeout(timer))
}

/**
 * What axe finds serious on a phone and wide, and of its colours light and dark; and what is wider than the page. Colours
 * are looked at wide, where all of it is in sight: they are the slow part, and of a phone's width they know nothing.
 */
export async function faultsOf(page: Page, state: string): Promise<string[]> {
  const found: string[] = []
  for (const { width, colorScheme, asks } of looks) {
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    await page.setViewportSize({ width, height: 844 })
    await page.evaluate(endAnimations)
    const results = await answeredIn(20_000, page.evaluate<Results>(asks), `axe did not answer (${state}, ${width})`)
    for (const { id, impact, nodes } of results.violations) {
      if (impact !== 'serious' && impact !== 'critical') continue
      found.push(`${state} ${colorScheme} ${width}: ${id} ${nodes.map(({ html }) => html).join(' ')}`)
    }
    const wide = await page.evaluate(() =>
      [...document.querySelectorAll('main *')]
        .filter((each) => !each.closest('.sr-only, pre, table') && each.getBoundingClientRect().right > innerWidth)
        .map(({ outerHTML }) => outerHTML.slice(0, 100)),
    )
    found.push(...wide.map((html) => `${state} ${width}: too wide ${html}`))
  }
  return found
}

type Results = { violations: { id: string; impact: string; nodes: { html: string }[] }[] }

const run = (rules: object) => `axe.run(${JSON.stringify(rules)})`
const looks = [
  // The page gets axe with the first.
  {
    width: 390,
    colorScheme: 'dark',
    asks: `${axe.source}; ${run({ rules: { 'color-contrast': { enabled: false } } })}`,
  },
  { width: 1280, colorScheme: 'dark', asks: run({ runOnly: ['color-contrast'] }) },
  { width: 1280, colorScheme: 'light', asks: 'axe.run()' },
] as const

/**
 * Brought to their ends, not waited for: one in a page that draws no frames never comes there. Those that go on for ever
 * have none. What inherits a colour begins its own way there when that has come to its end.
 */
function endAnimations(): void {
  const running = () =>
    document
      .getAnimations()
      .filter(
        ({ playState, effect }) => playState !== 'finished' && Number.isFinite(effect?.getComputedTiming().endTime),
      )
  for (let round = 0, left = running(); left.length > 0 && round < 20; round++, left = running()) {
    for (const animation of left) animation.finish()
  }
}
