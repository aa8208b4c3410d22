/** An app with Holdfast in it as a process of its own, to be killed. PAGES holds the directories of `pages` as JSON. */

import { openai } from '../../dist/adapters/openai.js'
import { createHoldfast } from '../../dist/index.js'
import { pages } from './pages.mjs'

const { DATABASE_URL: database, PAGES, PORT, OPENAI_BASE_URL: baseUrl, OPENAI_API_KEY: apiKey } = process.env
const chat = createHoldfast({
  database,
  authenticate: () => ({ userId: 'ann' }),
  leaseMs: 1_000,
  log: () => undefined,
  reply: openai({ model: 'any', apiKey, baseUrl }),
})
const { url } = await chat.listen(
  Number(PORT),
  '127.0.0.1',
  pages(JSON.parse(PAGES), () => chat),
)
process.stdout.write(`Holdfast  ${url}\n`)
