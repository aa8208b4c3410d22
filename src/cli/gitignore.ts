import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { isAbsolute, join, normalize, relative } from 'node:path'

/**
 * Adds the data directory to the folder's `.gitignore`, where there is one that does not have it and it lies inside.
 * False: it should be there, and cannot be written.
 */
export function ignoreDirectory(folder: string, dataDir: string): boolean {
  const path = join(folder, '.gitignore')
  const name = bare(isAbsolute(dataDir) ? relative(folder, dataDir) : normalize(dataDir))
  if (name.startsWith('..') || name === '.' || name === '' || !existsSync(path)) return true
  try {
    const text = readFileSync(path, 'utf8')
    const isListed = text.split(/\r?\n/).some((line) => bare(line.trim()) === name)
    if (!isListed) appendFileSync(path, `${text === '' || text.endsWith('\n') ? '' : '\n'}${name}/\n`)
    return true
  } catch {
    return false
  }
}

const bare = (path: string) => path.replace(/^\//, '').replace(/\/$/, '')
