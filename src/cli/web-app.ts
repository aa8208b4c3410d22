/** Serves the built web app: each file is read when it is first asked for, sent from memory, gzipped where the browser can. */
import { existsSync, readFileSync } from 'node:fs'
import { extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { type Before, OptionError } from '../index.ts'
import { pathOf } from './path.ts'

const directory = fileURLToPath(new URL('../../web/dist', import.meta.url))

const types: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.woff2': 'font/woff2',
  '.json': 'application/json',
  '.webmanifest': 'application/manifest+json',
}

/**
 * No inline script, no plugin, no frame, nothing from elsewhere but images, which the page itself asks for only after
 * a click. `blob:` is an image that its reader has just chosen to send. What a model writes is shown on this page.
 */
export const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "worker-src 'self'",
  "img-src 'self' data: blob: https: http:",
  "media-src 'self' data:",
  "connect-src 'self'",
  "font-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

type File = { plain: Buffer; gzipped: Buffer; headers: Record<string, string> }

/** Answers whether the request was for the web app. Where it was not built there is no page, and all else works. */
export function createWebApp(): Before {
  const files = new Map<string, File>()
  return (incoming, outgoing) => {
    if (incoming.method !== 'GET' && incoming.method !== 'HEAD') return false
    const path = pathOf(incoming)
    const name = path === '/' ? '/index.html' : path
    const file = files.get(name) ?? readFile(name)
    if (!file) return false
    files.set(name, file)
    const gzip = /\bgzip\b/.test(incoming.headers['accept-encoding'] ?? '')
    const body = gzip ? file.gzipped : file.plain
    outgoing.writeHead(200, {
      ...file.headers,
      ...(gzip ? { 'content-encoding': 'gzip' } : {}),
      'content-length': body.byteLength,
    })
    outgoing.end(incoming.method === 'HEAD' ? undefined : body)
    return true
  }
}

/** For a command that is nothing without it. */
export function needWebApp(): void {
  if (!readFile('/index.html')) throw new OptionError('The web app is not built. Run "npm run build" first.')
}

/** Names lead nowhere but to the app's own files: in its directory, or in the one below it. */
const names = /^(?:\/assets)?\/[\w-][\w.-]*$/

function readFile(name: string): File | undefined {
  const type = types[extname(name)]
  if (type === undefined || !names.test(name)) return undefined
  const path = join(directory, name)
  if (!existsSync(path)) return undefined
  const plain = readFileSync(path)
  return { plain, gzipped: gzipSync(plain), headers: headersOf(name, type) }
}

function headersOf(name: string, type: string): Record<string, string> {
  // Names under assets/ carry a hash of their content.
  const forEver = name.startsWith('/assets/')
  return {
    'content-type': type,
    'cache-control': forEver ? 'public, max-age=31536000, immutable' : 'no-cache',
    'content-security-policy': contentSecurityPolicy,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    vary: 'accept-encoding',
  }
}
