/** `uploadFile`: by `fetch`, as Node and apps with their own have it. With `XMLHttpRequest` it is in test/web/files.test.ts. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { uploadFile } from '../../src/client/client.ts'
import { limits } from '../../src/core/limits.ts'
import { eventually } from '../support/eventually.ts'
import { tokenOf } from '../support/server.ts'
import { clientOf, openScene } from './scene.ts'

const file = (text = 'what is in it', name = 'a name & more.txt', type = 'text/plain') =>
  new File([text], name, { type })

test('what is uploaded is the part of a message, and is stored once however often it is uploaded (P91, P92)', async () => {
  const scene = await openScene()
  const { through: url, session: sessionId, ann } = scene
  const upload = { url: `${url}/`, token: await tokenOf('ann'), sessionId, file: file() }
  const part = await uploadFile(upload)
  expect(part).toEqual({
    type: 'file',
    url: expect.stringMatching(`^/v1/sessions/${sessionId}/files/`),
    mediaType: 'text/plain',
    filename: 'a name & more.txt',
  })
  expect(await uploadFile({ ...upload, token: () => tokenOf('ann') })).toEqual(part)
  const { message } = await clientOf(scene)
    .session(sessionId)
    .send({ parts: [part] })
  expect(message.parts).toEqual([part])
  expect(await (await ann.request(part.url)).text()).toBe('what is in it')
  const list = (await (await ann.request(`/v1/sessions/${sessionId}/files`)).json()) as { data: object[] }
  expect(list.data).toMatchObject([{ filename: 'a name & more.txt', size: 13 }])
})

test('bytes without a name or a type are taken, and a given name is used', async () => {
  const { through: url, session: sessionId } = await openScene()
  const upload = { url, headers: async () => ({ authorization: `Bearer ${await tokenOf('ann')}` }), sessionId }
  const bare = await uploadFile({ ...upload, file: new Blob(['bare']) })
  expect(bare).toEqual({ type: 'file', url: bare.url, mediaType: 'application/octet-stream' })
  expect(await uploadFile({ ...upload, file: new Blob(['bare']), filename: 'b.bin' })).toEqual({
    ...bare,
    filename: 'b.bin',
  })
})

test('a token that the server does not take is asked for once more', async () => {
  const { through: url, session: sessionId } = await openScene()
  const asked: boolean[] = []
  const token = (isRenewal: boolean) => {
    asked.push(isRenewal)
    return isRenewal ? tokenOf('ann') : 'an old one'
  }
  await uploadFile({ url, token, sessionId, file: file() })
  expect(asked).toEqual([false, true])
})

test('each failure is an error of its kind, with a sentence for people', async () => {
  const { through: url, session: sessionId, proxy } = await openScene()
  const token = () => tokenOf('ann')
  const upload = { url, token, sessionId, file: file() }
  const large = new Blob([new Uint8Array(limits.fileBytesMax + 1)])
  await expect(uploadFile({ ...upload, file: large })).rejects.toMatchObject({
    kind: 'validation',
    code: 'too_large',
    message: 'A file may have at most 8 MB. Choose a smaller one.',
  })
  await expect(uploadFile({ ...upload, file: file('') })).rejects.toMatchObject({
    kind: 'validation',
    message: 'The file is empty.',
  })
  await expect(uploadFile({ ...upload, token: 'of nobody' })).rejects.toMatchObject({ kind: 'auth' })
  await expect(uploadFile({ ...upload, token: () => tokenOf('bob') })).rejects.toMatchObject({ kind: 'refused' })
  await proxy.close()
  await expect(uploadFile(upload)).rejects.toMatchObject({ kind: 'network', retryable: true })
})

test('an upload that is aborted breaks off, and rejects as fetch does', async () => {
  const open: object[] = []
  const server = createServer((incoming) => {
    open.push(incoming)
    incoming.socket.on('close', () => open.pop())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const control = new AbortController()
  const uploaded = uploadFile({ url, sessionId: 'a', file: file(), signal: control.signal })
  await eventually(async () => open.length === 1)
  control.abort()
  await expect(uploaded).rejects.toMatchObject({ name: 'AbortError' })
  await eventually(async () => open.length === 0)
})
