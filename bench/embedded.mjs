/** The embedded database: until it answers, the first time (copy, initdb, start) and after that; and until it has stopped. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startEmbedded } from '../dist/store/embedded.js'
import { figures, ms } from './support.mjs'

const times = 5

export async function embedded() {
  const first = []
  const later = []
  const stop = []
  for (let n = 0; n < times; n++) {
    const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-bench-'))
    for (const into of [first, later]) {
      const began = performance.now()
      const running = await startEmbedded({ dataDir, log: () => undefined })
      into.push(performance.now() - began)
      const stopping = performance.now()
      await running.stop()
      stop.push(performance.now() - stopping)
    }
    await rm(dataDir, { recursive: true })
  }
  const line = (values) => `p50 ${ms(figures(values).p50)}, worst ${ms(figures(values).max)}`
  return [`embedded database, ${times} times: first start ${line(first)}; later ${line(later)}; stop ${line(stop)}`]
}
