/** The process of `testProcess`: loads a module, lets the Holdfast that it exports listen, and tells the test the port. */
import type { Holdfast } from '../index.ts'

const [, , file = ''] = process.argv

function isHoldfast(value: unknown): value is Holdfast {
  return typeof value === 'object' && value !== null && 'listen' in value && 'close' in value && 'handlers' in value
}

const exported: unknown[] = Object.values((await import(file)) as object)
const chat = exported.find(isHoldfast)
if (chat === undefined) throw new Error(`${file} exports no Holdfast: expected one as createHoldfast answers it.`)
process.once('SIGTERM', () => {
  void chat.close().finally(() => process.exit())
})
// The test's process has gone.
process.once('disconnect', () => process.kill(process.pid, 'SIGKILL'))
const { url } = await chat.listen(0)
process.send?.(Number(new URL(url).port))
