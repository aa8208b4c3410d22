/** Every few seconds on every runner: goes on with what another process has begun and not finished, and deletes what is too old. */
import { goOn, type HandOverParts } from './hand-over.ts'
import { createRetaining, type Retention } from './retention.ts'

const begunMax = 20

export type Keeper = { start(): void; stop(): void }

export function createKeeper({
  everyMs,
  retention,
  log,
  ...parts
}: HandOverParts & {
  everyMs: number
  retention: Retention | undefined
  log: (line: string, detail: object) => void
}): Keeper {
  const retaining = retention && createRetaining(parts, retention)
  let timer: NodeJS.Timeout | undefined
  let stopped = false

  const say = (job: string) => (error: unknown) => log('sweep failed', { jobs: job, error: String(error) })
  async function look(): Promise<void> {
    await goOn(parts, begunMax, say('transfers')).catch(say('transfers'))
    await retaining?.next().catch(say('retention'))
  }
  function schedule(): void {
    timer = setTimeout(() => void look().finally(() => stopped || schedule()), everyMs)
    timer.unref()
  }
  return {
    start: schedule,
    stop() {
      stopped = true
      clearTimeout(timer)
    },
  }
}
