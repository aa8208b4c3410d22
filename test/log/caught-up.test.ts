/** What `after` names, and from where one comes back: P46 to P48. */
import { createParser } from 'eventsource-parser'
import { expect, onTestFinished, test } from 'vitest'
import { openChat } from '../support/chat.ts'
import type { Api, Frame } from '../support/client.ts'
import { queryOnce } from '../support/postgres.ts'

/** The events of one connection, and each one's id. */
async function streamOf(ann: Api, session: string, cursor: string) {
  const control = new AbortController()
  onTestFinished(() => control.abort())
  const { body } = await ann.request(`/v1/sessions/${session}/events?cursor=${cursor}`, { signal: control.signal })
  const seen: { id: string | undefined; frame: Frame & { after?: string } }[] = []
  const parser = createParser({ onEvent: ({ id, data }) => seen.push({ id, frame: JSON.parse(data) }) })
  const reader = body!.getReader()
  const decoder = new TextDecoder()
  return async (type: string) => {
    for (;;) {
      const found = seen.find(({ frame }) => frame.type === type)
      if (found) return found
      parser.feed(decoder.decode((await reader.read()).value, { stream: true }))
    }
  }
}

test('the cursor of caught-up lies beyond what was left out, and `after` is that of the last frame (P46, P47, P48)', async () => {
  const { ann, session, watcher, database } = await openChat()
  await ann.send(session, 'hi', 'm1')
  const told = (await watcher.outcome('m1')) as Frame & { cursor: string }
  await ann.request(`/v1/sessions/${session}`, { method: 'PATCH', body: '{"title":"not for ann"}' })
  await watcher.until(({ type }) => type === 'session.updated')
  await queryOnce(database, `update holdfast.events set audience = 'not:ann' where type = 'session.updated'`)

  const until = await streamOf(ann, session, told.cursor)
  const { id } = await until('caught-up')
  const end = (await ann.snapshot(session)).cursor
  expect(id).toBe(end)
  expect(id).not.toBe(told.cursor)
  const again = await streamOf(ann, session, id!)
  await again('caught-up')
  await ann.send(session, 'more', 'm2')
  expect((await until('message.created')).frame.after).toBe(told.cursor)
  expect((await again('message.created')).frame.after).toBe(id)
  const { frames } = await ann.poll(session, { cursor: told.cursor })
  expect((frames as { after?: string }[])[0]!.after).toBe(told.cursor)
})

test('over server-sent events the cursor moves on with what is left out live, without a frame (P47)', async () => {
  const { chat, ann, session } = await openChat()
  const control = new AbortController()
  onTestFinished(() => control.abort())
  const { body } = await ann.request(`/v1/sessions/${session}/events?cursor=now`, { signal: control.signal })
  const reader = body!.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  const until = async (pattern: RegExp) => {
    for (;;) {
      const found = pattern.exec(text)
      if (found) return found[1]!
      text += (await reader.read()).value
    }
  }
  await until(/(caught-up)/)
  await Promise.all(Array.from({ length: 100 }, () => chat.publish(session, 'not.anns', {}, { excludeUserId: 'ann' })))
  const id = await until(/\nid: (\S+)\n\n/)
  expect(id).toBe((await ann.snapshot(session)).cursor)
  expect(text.match(/data: /g)).toHaveLength(1)
  const again = await streamOf(ann, session, id)
  expect((await again('caught-up')).id).toBe(id)
})
