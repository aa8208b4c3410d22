/** `holdfast usage --verify`: that the daily figures are what the ledger says. */
import { defineCommand } from 'citty'
import { OptionError } from '../option-checks.ts'
import { usageDifferences } from '../store/usage-report.ts'
import { withDatabase } from './database.ts'
import { exit } from './exit.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'

export const usageCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: {
    name: 'usage',
    description: 'Proves the daily figures: holdfast usage --verify folds the whole ledger anew.',
  },
  args: { verify: { type: 'boolean', description: 'Print each figure that is not what the ledger says.' } },
  run: ({ args }) => run(args.verify === true).catch(exit),
})

async function run(verify: boolean): Promise<void> {
  if (!verify) throw new OptionError('Say what is to be done: holdfast usage --verify.')
  await withDatabase(true, async (database) => {
    const { rows, differences } = await usageDifferences(database)
    const steps = `${rows} ${rows === 1 ? 'step' : 'steps'} of the ledger`
    if (differences.length === 0) {
      process.stdout.write(`The daily figures are what the ${steps} add up to.\n`)
      return
    }
    for (const { tenantId, userId, day, model, figure, ledger, daily } of differences) {
      const what = model === '' ? 'no model' : `model ${model}`
      const whose = `tenant ${tenantId}, ${userId === null ? day : `user ${userId}, ${day}, ${what}`}`
      process.stdout.write(`${whose}: ${figure} is ${daily}, and by the ledger ${ledger}\n`)
    }
    const count = `${differences.length} ${differences.length === 1 ? 'figure is' : 'figures are'}`
    process.stdout.write(`${count} not what the ${steps} add up to. The ledger is what holds.\n`)
    process.exitCode = 1
  })
}
