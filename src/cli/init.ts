/** `holdfast init`: finds the framework of the app in this folder, and writes the files that mount Holdfast in it. */
import { defineCommand } from 'citty'
import { OptionError } from '../index.ts'
import { exit } from './exit.ts'
import { frameworks, readApp } from './init-app.ts'
import { diffOf } from './init-diff.ts'
import { nextSteps } from './init-next-steps.ts'
import { type Plan, planFor } from './init-plan.ts'
import { writeChanges } from './init-write.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'

export const initCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: {
    name: 'init',
    description: 'Writes the files that mount Holdfast in the app of this folder, and shows them.',
  },
  args: {
    framework: {
      type: 'string',
      description: `What the app is made with: ${frameworks.join(', ')}. Else it is found.`,
    },
    'dry-run': { type: 'boolean', description: 'Show the files and write nothing.' },
    force: { type: 'boolean', description: 'Also where a file that is there is moved or overwritten.' },
  },
  run({ args }) {
    try {
      const ask = { framework: args.framework, isDry: args['dry-run'] === true, force: args.force === true }
      init(process.cwd(), ask, (text) => process.stdout.write(text))
    } catch (error) {
      exit(error)
    }
  },
})

export type Ask = { framework: string | undefined; isDry: boolean; force: boolean }

/** `say` is given what people read, in pieces. Throws an `OptionError`, with nothing written, where it is not to be done. */
export function init(folder: string, { framework, isDry, force }: Ask, say: (text: string) => void): void {
  const app = readApp(folder, framework)
  const plan = planFor(app)
  for (const change of plan.changes) say(diffOf(change))
  if (plan.obstacles.length > 0 && !force) {
    throw new OptionError([...plan.obstacles, 'Nothing was written.'].join('\n'))
  }
  if (!isDry) writeChanges(folder, plan.changes)
  say(`${outcome(plan, isDry)}\n`)
  say(nextSteps(app, plan))
}

function outcome({ changes, there }: Plan, isDry: boolean): string {
  const kept = there.length > 0 ? [`Already there, and left as it is: ${there.join(', ')}.`] : []
  if (changes.length === 0) return `All is there already: ${there.join(', ')}. Nothing was written.`
  const paths = changes.map(({ to }) => to).join(', ')
  return [isDry ? `Nothing was written (--dry-run). It would be ${paths}.` : `Written: ${paths}.`, ...kept].join('\n')
}
