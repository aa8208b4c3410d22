/** The service that an app's tools ask, as tools-server.mjs does. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'

export type Run = { name: string; toolCallId: string; idempotencyKey: string; input: unknown }

/** Where the tools are run: each run, and what it answers. */
type Answer = number | object
export async function openTools(
  answer: (run: Run, nth: number) => Answer | Promise<Answer> = ({ name }) => ({ of: name }),
) {
  const runs: Run[] = []
  const server = createServer(async (incoming, outgoing) => {
    const pieces: Buffer[] = []
    for await (const piece of incoming) pieces.push(piece as Buffer)
    // Of a process that was killed while it asked, nothing may have come.
    if (pieces.length === 0) return
    const run = JSON.parse(Buffer.concat(pieces).toString()) as Run
    runs.push(run)
    const answered = await answer(run, runs.length)
    outgoing.writeHead(typeof answered === 'number' ? answered : 200).end(JSON.stringify(answered))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return { runs, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}
