import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { isAbsolute, join, relative } from 'node:path'

/** Adds the data directory to the folder's `.gitignore`, where there is one that does not have it and it lies inside. */
export function ignoreDirectory(folder: string, dataDir: string): void {
  const path = join(folder, '.gitignore')
  const inside = isAbsolute(dataDir) ? relative(folder, dataDir) : dataDir
  if (inside.startsWith('..') || inside === '' || !existsSync(path)) return
  const text = readFileSync(path, 'utf8')
  const name = inside.replace(/^\.\//, '').replace(/\/$/, '')
  const listed = text.split(/\r?\n/).some((line) => line.trim().replace(/^\//, '').replace(/\/$/, '') === name)
  if (!listed) appendFileSync(path, `${text === '' || text.endsWith('\n') ? '' : '\n'}${name}/\n`)
}
