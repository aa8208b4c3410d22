/**
 * The provider stub as a process of its own, for benchmarks: `node provider-main.mjs '<steps as JSON>' [port]` answers
 * every request with these steps and prints `{"url": …}` when it listens. SIGTERM ends it.
 */
import { startProvider } from './provider.mjs'

const [steps = '[{"firehose":{"tokens":1000,"perSecond":50,"stamp":true}}]', port = '0'] = process.argv.slice(2)
const provider = await startProvider({ port: Number(port) })
provider.script(JSON.parse(steps))
process.stdout.write(`${JSON.stringify({ url: provider.url })}\n`)
process.once('SIGTERM', () => provider.stop())
