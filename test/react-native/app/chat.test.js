import { expect, test } from '@jest/globals'
import { createClient, memoryStorage } from 'holdfast/client'
import { useChatSession } from 'holdfast/react'

test('Jest loads holdfast/client and holdfast/react', () => {
  const client = createClient({ url: 'http://127.0.0.1:1', storage: memoryStorage() })
  expect(client.session('trip').getSnapshot().phase).toBe('loading')
  expect(typeof useChatSession).toBe('function')
  client.close()
})
