/** Serves the built web app: each file is read when it is first asked for, sent from memory, gzipped where the browser can. */
import { readdirSync, readFileSync } from 'node:fs'
import { extname, join, relative, sep } from 'node:path'
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
 * a click. What a model writes is shown on this page.
 */
const contentSecurityPolicy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data: https: http:",
  "connect-src 'self'",
  "font-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ')

type File = { plain: Buffer; gzipped: Buffer; headers: Record<string, string> }

/** Answers whether the request was for the web app. Throws where it was not built. */
export function createWebApp(): Before {
  const paths = pathsByName()
  const files = new Map<string, File>()
  return (incoming, outgoing) => {
    if (incoming.method !== 'GET' && incoming.method !== 'HEAD') return false
    const asked = pathOf(incoming)
    const name = asked === '/' ? '/index.html' : asked
    const path = paths.get(name)
    if (path === undefined) return false
    const file = files.get(name) ?? readFile(name, path)
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

function readFile(name: string, path: string): File {
  const plain = readFileSync(path)
  return { plain, gzipped: gzipSync(plain), headers: headersOf(name) }
}

function pathsByName(): Map<string, string> {
  const paths = new Map<string, string>()
  for (const entry of listed()) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    paths.set(`/${relative(directory, path).split(sep).join('/')}`, path)
  }
  return paths
}

function listed() {
  try {
    return readdirSync(directory, { recursive: true, withFileTypes: true })
  } catch {
    throw new OptionError('The web app is not built. Run "npm run build" first.')
  }
}

function headersOf(name: string): Record<string, string> {
  // Names under assets/ carry a hash of their content.
  const forEver = name.startsWith('/assets/')
  return {
    'content-type': types[extname(name)] ?? 'application/octet-stream',
    'cache-control': forEver ? 'public, max-age=31536000, immutable' : 'no-cache',
    'content-security-policy': contentSecurityPolicy,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    vary: 'accept-encoding',
  }
}
