/** A Holdfast in the test's own process, with the app's functions as options, on a database of its own. */
import { onTestFinished } from 'vitest'
import { createHoldfast, type Holdfast, type HoldfastOptions } from '../../src/index.ts'
import { type Api, apiOf, type Watcher } from './client.ts'
import { freshDatabase } from './postgres.ts'
import { jwtSecret } from './server.ts'

export type Chat = {
  chat: Holdfast
  url: string
  /** A connection URL. */
  database: string
  ann: Api
  session: string
  /** Of that session, from its start. */
  watcher: Watcher
}

/** Closed and dropped after the test. */
export async function openChat(options: Partial<HoldfastOptions> = {}): Promise<Chat> {
  const database = await freshDatabase(18)
  const chat = createHoldfast({
    database: database.url,
    tokens: { secret: jwtSecret },
    log: () => undefined,
    drainMs: 0,
    reply: () => 'the answer',
    ...options,
  })
  onTestFinished(async () => {
    await chat.close()
    await database.drop()
  })
  const { url } = await chat.listen(0)
  const ann = await apiOf(url)
  const session = await ann.createSession()
  const watcher = ann.watch(session)
  onTestFinished(() => watcher.close())
  return { chat, url, database: database.url, ann, session, watcher }
}
