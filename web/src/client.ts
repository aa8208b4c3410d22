/** The page's client, and the network that it has, which the trying panel can cut. */
import { createClient } from 'holdfast/client'

let cut = new AbortController()
let isCut = false

/** `fetch`, unless it is cut: then what is under way breaks off, as where a cable is pulled. */
const network: typeof fetch = (input, init) => {
  if (isCut) return Promise.reject(new TypeError('The connection was cut by the panel.'))
  const signals = init?.signal ? [cut.signal, init.signal] : [cut.signal]
  return fetch(input, { ...init, signal: AbortSignal.any(signals) })
}

/** By server-sent events, which pass wherever the page itself did; a tab that nobody sees leaves its stream to others. */
export const client = createClient({ transport: 'sse', fetch: network })

export function cutNetwork(ms: number): void {
  isCut = true
  cut.abort()
  setTimeout(() => {
    isCut = false
    cut = new AbortController()
    client.wake()
  }, ms)
}
