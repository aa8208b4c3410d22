/** What the tests of the app share: everything that one needs is up, tabs that complain, and what axe finds. */
import { mkdir } from 'node:fs/promises'
import axe from 'axe-core'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { gate } from '../faults/scene.ts'
import { freshDatabase } from '../support/postgres.ts'
import { type Provider, type Script, startProvider } from '../support/provider.mjs'
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

/** What axe finds serious, on a phone and wide, light and dark, and what is wider than the page. */
export async function faultsOf(page: Page, state: string): Promise<string[]> {
  const found: string[] = []
  for (const colorScheme of ['light', 'dark'] as const) {
    for (const width of [390, 1280]) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      await page.setViewportSize({ width, height: 844 })
      // Brought to their ends, not waited for: one in a page that draws no frames never comes there. Those that go on for ever
      // have none. What inherits a colour begins its own way there when that has come to its end.
      await page.evaluate(() => {
        const running = () =>
          document
            .getAnimations()
            .filter(
              ({ playState, effect }) =>
                playState !== 'finished' && Number.isFinite(effect?.getComputedTiming().endTime),
            )
        for (let round = 0, left = running(); left.length > 0 && round < 20; round++, left = running()) {
          for (const animation of left) animation.finish()
        }
      })
      const results = await answeredIn(
        20_000,
        page.evaluate<{ violations: { id: string; impact: string; nodes: { html: string }[] }[] }>(
          `${axe.source}; axe.run()`,
        ),
        `axe did not answer (${state}, ${colorScheme}, ${width})`,
      )
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
  }
  return found
}
