/** `npm run bench` runs all, `npm run bench -- stream accept` some. Loopback only; each ends by itself. */
import { accept } from './accept.mjs'
import { embedded } from './embedded.mjs'
import { page } from './page.mjs'
import { resume } from './resume.mjs'
import { stream } from './stream.mjs'
import { machineLine } from './support.mjs'
import { takeover } from './takeover.mjs'

const all = {
  embedded,
  accept,
  stream,
  stream2: () => stream(500, 2),
  stream100: () => stream(100),
  resume,
  page,
  takeover,
}
const chosen = process.argv.slice(2)
for (const name of chosen) {
  if (!(name in all)) throw new Error(`There is no benchmark ${name}. There are ${Object.keys(all).join(', ')}.`)
}
process.stdout.write(`${machineLine()}\n`)
for (const [name, run] of Object.entries(all)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue
  for (const line of await run()) process.stdout.write(`${line}\n`)
}
