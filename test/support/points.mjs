/**
 * The real kill points (see src/points.ts). In a child process they are steered by HOLDFAST_POINT, a list of
 * `name:nth:action` joined by commas, where action is `kill` (SIGKILL to itself), `pause` (SIGSTOP), `throw`, or
 * `block=<ms>`; in a
 * test's own process by `onPoint(name, action)`.
 */
import { writeSync } from 'node:fs'

/** @type {Map<string, (name: string) => void | Promise<void>>} */
const handlers = new Map()
/** @type {Map<string, number>} */
const counts = new Map()
const script = (process.env.HOLDFAST_POINT ?? '')
  .split(',')
  .filter(Boolean)
  .map((entry) => {
    const [name, nth, action] = entry.split(':')
    return { name, nth: Number(nth), action: action ?? 'kill' }
  })

/** @param {string} name */
export function point(name) {
  const count = (counts.get(name) ?? 0) + 1
  counts.set(name, count)
  for (const step of script) {
    if (step.name !== name || step.nth !== count) continue
    writeSync(2, `point ${name} ${count} ${step.action}\n`)
    if (step.action === 'kill') process.kill(process.pid, 'SIGKILL')
    if (step.action === 'pause') process.kill(process.pid, 'SIGSTOP')
    if (step.action === 'throw') throw new Error(`point ${name}`)
    if (step.action.startsWith('block=')) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(step.action.slice(6)))
    }
  }
  return handlers.get(name)?.(name)
}

/**
 * @param {string} name
 * @param {(name: string) => void | Promise<void>} handler
 * @returns {() => void} takes it back
 */
export function onPoint(name, handler) {
  handlers.set(name, handler)
  return () => handlers.delete(name)
}
