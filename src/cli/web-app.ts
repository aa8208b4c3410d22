/** Serves the built web app: read once, sent from memory, gzipped where the browser can. */
import { readdirSync, readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { extname, join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { OptionError } from '../index.ts'
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
export function createWebApp(): (incoming: IncomingMessage, outgoing: ServerResponse) => boolean {
  const files = readFiles()
  return (incoming, outgoing) => {
    if (incoming.method !== 'GET' && incoming.method !== 'HEAD') return false
    const path = pathOf(incoming)
    const file = files.get(path === '/' ? '/index.html' : path)
    if (!file) return false
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

function readFiles(): Map<string, File> {
  const files = new Map<string, File>()
  for (const entry of listed()) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    const name = `/${relative(directory, path).split(sep).join('/')}`
    const plain = readFileSync(path)
    files.set(name, { plain, gzipped: gzipSync(plain), headers: headersOf(name) })
  }
  return files
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
