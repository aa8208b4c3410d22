/**
 * A process that makes one call of the store and says so, to be stopped by its parent in the middle of it. Arguments:
 * the database's address, the call's module and name, and its arguments as JSON after the database.
 */
import { openDatabase } from '../../dist/store/database.js'

const [address, module, name, json] = process.argv.slice(2)
const database = openDatabase(address, { poolMax: 6, onError: () => undefined })
const store = await import(`../../dist/store/${module}.js`)
const work =
  name === 'createAcceptor'
    ? store.createAcceptor(database).accept(JSON.parse(json)[0])
    : store[name](database, ...JSON.parse(json))
const told = await work.then(
  (answer) => ({ answer: answer instanceof Set ? [...answer] : answer }),
  (error) => ({ error: error.code ?? String(error) }),
)
process.stdout.write(`${JSON.stringify(told)}\n`)
await database.close()
