/** What tabs of one origin tell each other. Where there are none, nobody is told. */
export type Tabs<Word> = { tell(word: Word): void; close(): void }

export function tabsHere<Word>(name: string, hear: (word: Word) => void): Tabs<Word> {
  if (typeof BroadcastChannel === 'undefined') return { tell: () => undefined, close: () => undefined }
  const channel = new BroadcastChannel(name)
  channel.addEventListener('message', ({ data }: MessageEvent<Word>) => hear(data))
  // Node would not end while it listens.
  ;(channel as { unref?: () => void }).unref?.()
  let isOpen = true
  return {
    tell(word) {
      if (isOpen) channel.postMessage(word)
    },
    close() {
      isOpen = false
      channel.close()
    },
  }
}
