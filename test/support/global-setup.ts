/** Once per test run: one server of each version that we support. Tests get databases of their own in them. */
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { binariesPackage, installBinaries } from '../../src/store/embedded-binaries.ts'
import { makeCluster } from './cluster.ts'
import { needProgram } from './debian.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** Addresses of the run's servers, and where their binaries are. */
    postgres: { url15: string; url18: string; binaries15: string; binaries18: string }
  }
}

const binaries15 = '/usr/lib/postgresql/15'

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const dir = await mkdtemp(join(tmpdir(), 'holdfast-test-binaries-'))
  await chmod(dir, 0o711)
  const [binaries18] = await Promise.all([
    installBinaries(dir, binariesPackage()),
    // The oldest is never skipped.
    needProgram(join(binaries15, 'bin', 'postgres'), 'postgresql-15'),
  ])
  const [cluster15, cluster18] = await Promise.all([makeCluster(15, binaries15), makeCluster(18, binaries18)])
  project.provide('postgres', { url15: cluster15.url, url18: cluster18.url, binaries15, binaries18 })
  return async () => {
    await Promise.all([cluster15.remove(), cluster18.remove()])
    await rm(dir, { recursive: true, force: true })
  }
}
