import { createServer } from 'node:net'
import { type Before, type Holdfast, OptionError } from '../index.ts'

/** Listens, or ends the database that was started for it and says what to do. */
export async function listenOrSay(
  chat: Holdfast,
  port: number,
  host: string,
  before: Before,
): Promise<{ url: string }> {
  try {
    return await chat.listen(port, host, before)
  } catch (error) {
    await chat.close()
    if ((error as { code?: string }).code !== 'EADDRINUSE') throw error
    const free = await freePortAfter(port, host)
    throw new OptionError(
      `Port ${port} is in use.${free === undefined ? '' : ` Port ${free} is free: set PORT=${free}.`}`,
    )
  }
}

const triesMax = 20

async function freePortAfter(port: number, host: string): Promise<number | undefined> {
  for (let next = port + 1; next <= Math.min(65_535, port + triesMax); next++) {
    if (await isFree(next, host)) return next
  }
  return undefined
}

function isFree(port: number, host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, host, () => server.close(() => resolve(true)))
  })
}
