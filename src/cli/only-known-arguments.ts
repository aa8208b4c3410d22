import type { CittyPlugin } from 'citty'
import { OptionError } from '../index.ts'
import { exit } from './exit.ts'

/** For each command: citty passes over in silence what a command does not know, such as `--port`. */
export const onlyKnownArguments: CittyPlugin = {
  name: 'only-known-arguments',
  setup({ rawArgs, cmd }) {
    const known = new Set(Object.keys(cmd.args ?? {}).map((name) => `--${name}`))
    const unknown = rawArgs.find((each) => !known.has(each))
    if (unknown === undefined) return
    const all = [...known].join(', ')
    exit(
      new OptionError(
        `"${unknown}" is no option here${all && `; there is ${all}`}. Settings such as PORT come from the environment.`,
      ),
    )
  },
}
