/**
 * A process that makes one call of the store and says so, to be stopped by its parent in the middle of it. Arguments:
 * the database's address, the call's module and name, and its arguments as JSON after the database.
 */
import { openDatabase } from '../../dist/store/database.js'

const [address, module, name, json] = process.argv.slice(2)
const database = openDatabase(address, { poolMax: 6, onError: () => undefined })
const store = await import(`../../dist/store/${module}.js`)
const args = JSON.parse(json)
// Messages that come in together go together, in one batch.
const accept = async (acceptor) => await Promise.all(args.map((each) => acceptor.accept(each)))
const work = name === 'createAcceptor' ? accept(store.createAcceptor(database)) : store[name](database, ...args)
const told = await work.then(
  (answer) => ({ answer: answer instanceof Set ? [...answer] : (answer ?? null) }),
  (error) => ({ error: error.code ?? String(error) }),
)
process.stdout.write(`${JSON.stringify(told)}\n`)
await database.close()
