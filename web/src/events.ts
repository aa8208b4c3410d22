/**
 * The data of each server-sent event of a response, as Holdfast writes them: one line of data, a blank line after it.
 * `heard` is called for whatever comes, comments too. It ends when the stream does, also where it breaks off.
 */
export async function* eventsOf(
  body: ReadableStream<Uint8Array<ArrayBuffer>>,
  heard: () => void,
): AsyncGenerator<string> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    // A broken connection is an end like any other: who reads comes back by the cursor.
    const text = await reader.read().then(
      ({ value }) => value,
      () => undefined,
    )
    if (text === undefined) return
    heard()
    const blocks = (rest + text).split('\n\n')
    rest = blocks.pop() ?? ''
    for (const block of blocks) {
      const [, data] = /^data: (.*)$/m.exec(block) ?? []
      if (data !== undefined) yield data
    }
  }
}
