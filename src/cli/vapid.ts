/**
 * Who sends notices to browsers, where nobody has said it: keys that are made once, and kept beside the embedded database.
 * Browsers are subscribed with them, so they stay as long as it does.
 */
import { createECDH, randomUUID } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { webPush } from '../adapters/web-push.ts'
import { OptionError } from '../option-checks.ts'
import type { HoldfastOptions } from '../options.ts'
import { openDataDir } from './data-dir.ts'

/** Push services want to know whom to write to; who runs a server for others names themselves. */
const subject = 'mailto:operator@example.com'

/** With these keys where the database is the embedded one, none are set, and what sends notices is installed. */
export function withKeptKeys(options: HoldfastOptions): HoldfastOptions {
  const { database, dataDir = '.holdfast', push } = options
  if (database !== undefined || push?.web !== undefined || !isInstalled()) return options
  openDataDir(dataDir)
  return { ...options, push: { ...push, web: webPush({ vapid: { subject, ...keptKeys(dataDir) } }) } }
}

/** An optional peer of this package. */
function isInstalled(): boolean {
  try {
    createRequire(import.meta.url).resolve('web-push')
    return true
  } catch {
    return false
  }
}

type Keys = { publicKey: string; privateKey: string }

function keptKeys(dataDir: string): Keys {
  const path = join(dataDir, 'vapid.json')
  try {
    return read(path) ?? make(path)
  } catch (error) {
    if (error instanceof OptionError) throw error
    const { code } = error as NodeJS.ErrnoException
    throw new OptionError(
      `The keys of Web Push in ${path} cannot be read or made (${code}): make room or rights there, or set HOLDFAST_VAPID_SUBJECT, HOLDFAST_VAPID_PUBLIC_KEY and HOLDFAST_VAPID_PRIVATE_KEY.`,
    )
  }
}

function read(path: string): Keys | null {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
  const keys = parsed(text)
  if (keys !== null) return keys
  throw new OptionError(
    `There are no keys of Web Push in ${path}: delete it, and new ones are made, with which browsers subscribe anew by themselves.`,
  )
}

function parsed(text: string): Keys | null {
  try {
    const { publicKey, privateKey } = JSON.parse(text) as Partial<Keys>
    const ecdh = createECDH('prime256v1')
    ecdh.setPrivateKey(privateKey ?? '', 'base64url')
    return ecdh.getPublicKey('base64url') === publicKey ? { publicKey, privateKey: privateKey! } : null
  } catch {
    return null
  }
}

function make(path: string): Keys {
  const ecdh = createECDH('prime256v1')
  const publicKey = ecdh.generateKeys('base64url')
  // One that begins with zeros has fewer bytes, and is wanted whole.
  const privateKey = Buffer.from(ecdh.getPrivateKey('hex').padStart(64, '0'), 'hex').toString('base64url')
  // Only a whole file gets the name.
  const own = `${path}.${randomUUID()}`
  writeFileSync(own, JSON.stringify({ publicKey, privateKey }), { mode: 0o600 })
  renameSync(own, path)
  return { publicKey, privateKey }
}
