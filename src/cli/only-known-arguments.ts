import type { ArgsDef, CittyPlugin } from 'citty'
import { OptionError } from '../index.ts'
import { exit } from './exit.ts'

/** For each command: citty passes over in silence what a command does not know, such as `--port`. */
export const onlyKnownArguments: CittyPlugin = {
  name: 'only-known-arguments',
  setup({ rawArgs, cmd }) {
    const args = Object.entries((cmd.args ?? {}) as ArgsDef)
    const named = args.filter(([, { type }]) => type !== 'positional')
    const known = new Set(named.map(([name]) => `--${name}`))
    const takeValue = new Set(args.filter(([, { type }]) => type === 'string').map(([name]) => `--${name}`))
    const takesPlain = args.some(([, { type }]) => type === 'positional')
    const isKnown = (each: string, at: number) =>
      (takesPlain && !each.startsWith('-')) ||
      known.has(each) ||
      takeValue.has(each.split('=')[0]!) ||
      takeValue.has(rawArgs[at - 1] ?? '')
    const unknown = rawArgs.find((each, at) => !isKnown(each, at))
    if (unknown === undefined) return
    const all = [...known].join(', ')
    exit(
      new OptionError(
        `"${unknown}" is no option here${all && `; there is ${all}`}. Settings such as PORT come from the environment.`,
      ),
    )
  },
}
