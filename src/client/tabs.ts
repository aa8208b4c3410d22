/** What tabs of one origin tell each other: that something changed. Where there are none, nobody is told. */
export type Tabs = { tell(): void; close(): void }

export function tabsHere(name: string, hear: () => void): Tabs {
  if (typeof BroadcastChannel === 'undefined') return { tell: () => undefined, close: () => undefined }
  const channel = new BroadcastChannel(name)
  channel.addEventListener('message', hear)
  // Node would not end while it listens.
  ;(channel as { unref?: () => void }).unref?.()
  let isOpen = true
  return {
    tell() {
      if (isOpen) channel.postMessage(null)
    },
    close() {
      isOpen = false
      channel.close()
    },
  }
}
