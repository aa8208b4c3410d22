import { createWriteStream, existsSync, renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pino } from 'pino'
import type { Log } from '../index.ts'

const bytesMax = 4 * 1024 * 1024

/** A log beside the data, so that the terminal stays tidy. The one before is kept when it has grown large. */
export function fileLog(dataDir: string): Log {
  const path = join(dataDir, 'server.log')
  if (existsSync(path) && statSync(path).size > bytesMax) renameSync(path, `${path}.1`)
  const logger = pino({ level: process.env.LOG_LEVEL ?? 'info' }, createWriteStream(path, { flags: 'a', mode: 0o600 }))
  return (line, detail = {}) => logger.info(detail, line)
}
