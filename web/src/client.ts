/** The page's client, and the network that it has, which the trying panel can cut. */
import { createClient, type Transport } from 'holdfast/client'

let cut = new AbortController()
let isCut = false

/** `fetch`, unless it is cut: then what is under way breaks off, as where a cable is pulled. */
const network: typeof fetch = (input, init) => {
  if (isCut) return Promise.reject(new TypeError('The connection was cut by the panel.'))
  const signals = init?.signal ? [cut.signal, init.signal] : [cut.signal]
  return fetch(input, { ...init, signal: AbortSignal.any(signals) })
}

/** A socket that is ended by the cut: at once, as a server that is out of reach cannot say goodbye. */
class NetworkSocket extends WebSocket {
  constructor(url: string | URL, protocols?: string | string[]) {
    super(url, protocols)
    const end = () => {
      this.dispatchEvent(new CloseEvent('close', { code: 1006 }))
      this.close()
    }
    const { signal } = cut
    if (signal.aborted) queueMicrotask(end)
    else signal.addEventListener('abort', end, { once: true })
    this.addEventListener('close', () => signal.removeEventListener('abort', end))
  }
}

const transports: readonly Transport[] = ['websocket', 'sse', 'poll']

/** `?transport=sse` in the page's address tries one that the client would not begin with. */
const asked = new URLSearchParams(location.search).get('transport')

export const client = createClient({
  transport: transports.find((each) => each === asked) ?? 'auto',
  fetch: network,
  WebSocket: NetworkSocket,
})

/** Until the network is cut: of what does not go through `fetch`. */
export const whileConnected = (): AbortSignal => cut.signal

export function cutNetwork(ms: number): void {
  isCut = true
  cut.abort()
  setTimeout(() => {
    isCut = false
    cut = new AbortController()
    client.wake()
  }, ms)
}
