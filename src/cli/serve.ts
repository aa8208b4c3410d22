import { defineCommand } from 'citty'
import { createHoldfast } from '../index.ts'
import { exit } from './exit.ts'
import { listenOrSay } from './listen.ts'
import { onlyKnownArguments } from './only-known-arguments.ts'
import { readSettings, storeName } from './settings.ts'
import { withKeptKeys } from './vapid.ts'
import { createWebApp } from './web-app.ts'

export const serveCommand = defineCommand({
  plugins: [onlyKnownArguments],
  meta: { name: 'serve', description: 'Starts the server. Settings come from the environment, see docs/options.md.' },
  run: () => serve().catch(exit),
})

async function serve(): Promise<void> {
  const { options, host, port, model } = readSettings(process.env)
  const chat = createHoldfast({ ...withKeptKeys(options), onDatabaseLost: exit })
  endOnSignal(() => chat.close())
  const { url } = await listenOrSay(chat, port, host, createWebApp())
  process.stdout.write(`Holdfast  ${url}\nstore     ${storeName(options)}\nmodel     ${model}\n`)
}

/** A second signal ends at once: whoever runs next takes the turns over. */
function endOnSignal(close: () => Promise<void>): void {
  let ending = false
  const end = () => {
    if (ending) process.exit(1)
    ending = true
    close().then(() => process.exit(0), exit)
  }
  process.on('SIGINT', end)
  process.on('SIGTERM', end)
}
