/** The bodies of SQL functions are looked at only when they run: a call that no function takes would be found by whoever gets there. */
import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const root = new URL('../../', import.meta.url)

/** With comments and texts made blank, in which commas and brackets mean nothing. */
function sqlFiles(): { name: string; sql: string }[] {
  const names = readdirSync(new URL('sql/', root)).filter((name) => name.endsWith('.sql'))
  return names.map((name) => {
    const text = readFileSync(new URL(`sql/${name}`, root), 'utf8')
    return { name, sql: text.replace(/--.*/g, '').replace(/'(?:[^']|'')*'/g, "''") }
  })
}

/** `at`: of the opening bracket. */
function argumentsAt(sql: string, at: number): string[] {
  const found: string[] = ['']
  for (let depth = 0, here = at; ; here++) {
    const sign = sql[here]
    if (sign === undefined) throw new Error('a bracket is not closed')
    if (sign === ')' || sign === ']') depth--
    if (depth === 0 && here > at) return found.length === 1 && found[0]!.trim() === '' ? [] : found
    if (sign === ',' && depth === 1) found.push('')
    else if (here > at) found[found.length - 1] += sign
    if (sign === '(' || sign === '[') depth++
  }
}

test('each SQL function is called with as many arguments as one of its name has', () => {
  const files = sqlFiles()
  const counts = new Map<string, Set<number>>()
  for (const { sql } of files) {
    for (const { 0: head, 1: name, index } of sql.matchAll(/create function (holdfast\.\w+)\s*(?=\()/g)) {
      const parameters = argumentsAt(sql, index + head.length)
      const least = parameters.filter((parameter) => !/\bdefault\b/.test(parameter)).length
      const known = counts.get(name!) ?? new Set()
      for (let count = least; count <= parameters.length; count++) known.add(count)
      counts.set(name!, known)
    }
  }
  expect(counts.size).toBeGreaterThan(100)
  const wrong: string[] = []
  for (const { name: file, sql } of files) {
    for (const { 0: head, 1: name, index } of sql.matchAll(/(?<!function )\b(holdfast\.\w+)(?=\()/g)) {
      // `insert into holdfast.turns(…)` names a table; a function is asked for with its arguments.
      const given = argumentsAt(sql, index + head.length).length
      if (counts.get(name!)?.has(given) === false) wrong.push(`${file}: ${name} with ${given}`)
    }
  }
  expect(wrong).toEqual([])
})
