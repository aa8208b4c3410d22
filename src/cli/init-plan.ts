/** What `holdfast init` would change in a folder, and what stands in its way. Decides, and writes nothing. */
import { lstatSync } from 'node:fs'
import { join } from 'node:path'
import { OptionError } from '../index.ts'
import { type App, type Next, namesHoldfast, readIfThere, routeFiles, type Server } from './init-app.ts'
import type { Change } from './init-diff.ts'
import { handsOver, nextFiles, serverFiles, type Wanted } from './init-files.ts'
import { movedRoute } from './init-moved-route.ts'

/**
 * `there`: files that do their work already, however they say it. `obstacles`: a sentence for each file that is something
 * else, with what `--force` makes of it, which `changes` has; with any, and without `--force`, nothing is written.
 */
export type Plan = { changes: Change[]; there: string[]; obstacles: string[]; setAside: string[] }

export function planFor(app: App): Plan {
  const { kind } = app
  if (kind.framework === 'other') return { ...nothing(), there: [kind.path] }
  return kind.framework === 'next' ? planForNext(app, kind) : planForServer(app, kind)
}

function planForServer(app: App, server: Server): Plan {
  const { file } = server
  // Made in the app's own file, as the examples have it.
  if (file !== null && namesHoldfast.test(file.text)) return { ...nothing(), there: [file.path] }
  return placed(nothing(), app.folder, serverFiles(app, server).chat)
}

const nothing = (): Plan => ({ changes: [], there: [], obstacles: [], setAside: [] })

function planForNext(app: App, next: Next): Plan {
  refusePagesRoute(app.folder, next)
  const found = routesIn(app.folder, next)
  const mounted = found.filter(({ text }) => handsOver.test(text))
  // Mounted by hand, from a definition of another name: whoever did so has what they want.
  if (mounted.some(({ text }) => !/\blib\/holdfast\b/.test(text))) {
    return { ...nothing(), there: mounted.map(({ path }) => path) }
  }
  const { chat, routes } = nextFiles(inLanguageOf(mounted, app), next)
  const ours = new Set(routes.map(({ path }) => path))
  const cleared = found.filter((route) => !ours.has(route.path) && !handsOver.test(route.text))
  const plan = cleared.reduce((sum, route) => outOfTheWay(sum, app.folder, chat, route), nothing())
  const isMoved = plan.changes.some(({ to }) => to === chat.path)
  return [...(isMoved ? [] : [chat]), ...routes].reduce((sum, each) => placed(sum, app.folder, each), plan)
}

/** A tsconfig.json that came after the routes makes no second ones of them. */
function inLanguageOf(mounted: readonly Route[], app: App): App {
  return mounted.length === 0 ? app : { ...app, isTyped: mounted.some(({ path }) => /\.tsx?$/.test(path)) }
}

type Route = { path: string; url: string; text: string }

/** Of the app's own routes those that answer where Holdfast's do. A path below `v1` of its own goes on answering. */
function routesIn(folder: string, next: Next): Route[] {
  return routeFiles(folder, `${next.base}app`)
    .map((path) => ({ path, url: urlOf(path, next), text: readIfThere(folder, path) ?? '' }))
    .filter(({ url }) => /^api\/chat(\/|$)/.test(url) || /^v1\/\[{1,2}\.\.\./.test(url))
}

/** A route that Holdfast's takes the place of. Its code is never lost: it becomes the reply, or is kept beside. */
function outOfTheWay(plan: Plan, folder: string, chat: Wanted, { path, url, text }: Route): Plan {
  const isFree = readIfThere(folder, chat.path) === null && placeOf(folder, chat) === undefined
  const moved =
    url === 'api/chat' && isFree ? movedRoute(text, { isTyped: chat.path.endsWith('ts'), isModule: true }) : null
  const to = moved === null ? path.replace(/route(\.\w+)$/, 'old-route$1') : chat.path
  checkPlace(folder, path)
  checkPlace(folder, to)
  if (readIfThere(folder, to) !== null) {
    throw new OptionError(
      `${path} would be set aside as ${to}, which is there already: move one of them away, and run holdfast init again.`,
    )
  }
  const sentence =
    moved === null
      ? `With --force it is set aside as ${to}, which Next.js does not serve.`
      : `With --force it is moved to ${to}, where its model call writes the replies.`
  return {
    ...plan,
    changes: [...plan.changes, { from: path, before: text, to, after: moved ?? text }],
    obstacles: [...plan.obstacles, `${path} answers /${url} already. ${sentence}`],
    setAside: [...plan.setAside, ...(moved === null ? [to] : [])],
  }
}

/** As Next.js makes it of the path: folders in parentheses are none of it. */
function urlOf(path: string, { base }: Next): string {
  const names = path.slice(`${base}app/`.length).split('/').slice(0, -1)
  return names.filter((name) => !/^\(.*\)$/.test(name)).join('/')
}

/** Next.js asks it first: a route of pages/ that is no pattern comes before one of app/ that is. */
function refusePagesRoute(folder: string, { base }: Next): void {
  const paths = ['chat', 'chat/index'].flatMap((name) =>
    ['ts', 'js'].map((extension) => `${base}pages/api/${name}.${extension}`),
  )
  const path = paths.find((each) => readIfThere(folder, each) !== null)
  if (path === undefined) return
  throw new OptionError(
    `${path} answers /api/chat, also where Holdfast's route is there: move it away, and run holdfast init again. Its model call then belongs into ${base}lib/holdfast.`,
  )
}

function placed(plan: Plan, folder: string, wanted: Wanted): Plan {
  const { path, text } = wanted
  checkPlace(folder, path)
  const there = placeOf(folder, wanted)
  if (there !== undefined) return { ...plan, there: [...plan.there, there] }
  const before = readIfThere(folder, path)
  if (before === null) return { ...plan, changes: [...plan.changes, { from: null, before: '', to: path, after: text }] }
  return {
    ...plan,
    changes: [...plan.changes, { from: path, before, to: path, after: text }],
    obstacles: [...plan.obstacles, `${path} is there and is something else. With --force it is overwritten.`],
  }
}

const extensions = ['ts', 'tsx', 'mts', 'cts', 'js', 'jsx', 'mjs', 'cjs']

/** Where its work is done already, in whichever language: one beside it in another would be a second of the same name. */
function placeOf(folder: string, { path, does }: Wanted): string | undefined {
  const name = path.replace(/\.\w+$/, '')
  const places = [path, ...extensions.map((extension) => `${name}.${extension}`)]
  return places.find((place) => does.test(readIfThere(folder, place) ?? ''))
}

/** Every part of the path is a folder, and its end a file, or not there yet. A link might lead anywhere. */
function checkPlace(folder: string, path: string): void {
  const names = path.split('/')
  for (const [at] of names.entries()) {
    const part = names.slice(0, at + 1).join('/')
    const stat = lstatSync(join(folder, part), { throwIfNoEntry: false })
    if (stat === undefined) return
    const isLast = at === names.length - 1
    if (stat.isSymbolicLink()) {
      throw new OptionError(
        `${part} is a symbolic link, and holdfast init writes through none: replace it by what it leads to, and run holdfast init again.`,
      )
    }
    if (isLast ? !stat.isFile() : !stat.isDirectory()) {
      throw new OptionError(
        `${part} is not a ${isLast ? 'file' : 'folder'}, which ${path} needs: move it away, and run holdfast init again.`,
      )
    }
  }
}
