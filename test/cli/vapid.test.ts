/** Web Push without a setting: keys that are made once, beside the embedded database. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readSettings } from '../../src/cli/settings.ts'
import { withKeptKeys } from '../../src/cli/vapid.ts'

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-vapid-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const optionsIn = (dataDir: string, more: Record<string, string> = {}) =>
  withKeptKeys(readSettings({ HOLDFAST_DATA_DIR: join(folder, dataDir), ...more }).options)
const keyIn = (...given: Parameters<typeof optionsIn>) => optionsIn(...given).push?.web?.publicKey

test('with the embedded database the keys are made once, and only their owner may read them', () => {
  const key = keyIn('new')
  expect(Buffer.from(key!, 'base64url')).toHaveLength(65)
  expect(keyIn('new')).toBe(key)
  expect(readdirSync(join(folder, 'new'))).toEqual(['vapid.json'])
  expect(statSync(join(folder, 'new/vapid.json')).mode & 0o777).toBe(0o600)
  // Beside another service.
  expect(optionsIn('new', { EXPO_ACCESS_TOKEN: 'a token' }).push).toMatchObject({ expo: {}, web: { publicKey: key } })
})

test('keys of the environment come before them, and with another database there are none but those', () => {
  const { publicKey, privateKey } = JSON.parse(readFileSync(join(folder, 'new/vapid.json'), 'utf8'))
  const set = {
    HOLDFAST_VAPID_SUBJECT: 'mailto:us@example.com',
    HOLDFAST_VAPID_PUBLIC_KEY: publicKey,
    HOLDFAST_VAPID_PRIVATE_KEY: privateKey,
  }
  expect(keyIn('set', set)).toBe(publicKey)
  expect(optionsIn('postgres', { DATABASE_URL: 'postgres://localhost/app' }).push).toBe(undefined)
  expect(readdirSync(folder)).toEqual(['new'])
})

test('what is no pair of keys is refused in a sentence that says what to do, and what cannot be written likewise', () => {
  const { publicKey } = JSON.parse(readFileSync(join(folder, 'new/vapid.json'), 'utf8'))
  for (const text of ['', '{}', JSON.stringify({ publicKey, privateKey: 'AAAA' })]) {
    writeFileSync(join(folder, 'new/vapid.json'), text)
    expect(() => keyIn('new')).toThrow(
      /^There are no keys of Web Push in \S+vapid\.json: delete it, and new ones are made, .*\.$/,
    )
  }
  writeFileSync(join(folder, 'file'), '')
  expect(() => keyIn('file')).toThrow(/^The data directory \S+ cannot be used \(EEXIST\): .*\.$/)
})
