/**
 * A process that owns an embedded Postgres: `node embedded-child.mjs <dataDir> [packageDir [orphanedMs]]`. It says in lines of JSON
 * what happens (`log`, `up`, `lost`, `refused`), and stops the server at SIGTERM (`stopped`). From dist, so that it
 * can be killed like a server in production.
 */
import { startEmbedded } from '../../dist/store/embedded.js'

const [, , dataDir, packageDir, orphanedMs] = process.argv
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)
const began = performance.now()

try {
  const embedded = await startEmbedded({
    dataDir,
    packageDir: packageDir || undefined,
    orphanedMs: orphanedMs ? Number(orphanedMs) : undefined,
    log: (line) => say({ log: line }),
    onLost: (error) => say({ lost: error.message }),
  })
  process.once('SIGTERM', async () => {
    const asked = performance.now()
    await Promise.all([embedded.stop(), embedded.stop()])
    say({ stopped: performance.now() - asked })
  })
  say({ up: embedded.connection, version: embedded.version, tookMs: performance.now() - began })
} catch (error) {
  say({ refused: error.message, name: error.name })
}
