/** A change of one file, printed as git prints it: `git apply` makes of the text what `holdfast init` writes. */

/** `from` is null for a new file, and `to` itself where one is written over. */
export type Change = { from: string | null; before: string; to: string; after: string }

export function diffOf({ from, before, to, after }: Change): string {
  const head = [`diff --git a/${from ?? to} b/${to}`]
  if (from === null) head.push('new file mode 100644')
  else if (from !== to) head.push(`rename from ${from}`, `rename to ${to}`)
  if (before === after) return `${head.join('\n')}\n`
  const lines = linesBetween(linesOf(before), linesOf(after))
  const count = (sign: string) => lines.filter((line) => !line.startsWith(sign)).length
  head.push(
    `--- ${from === null ? '/dev/null' : `a/${from}`}`,
    `+++ b/${to}`,
    `@@ ${rangeOf(count('+'), '-')} ${rangeOf(count('-'), '+')} @@`,
  )
  return `${head.join('\n')}\n${lines.map(ended).join('')}`
}

const rangeOf = (count: number, sign: '-' | '+') => `${sign}${count === 0 ? 0 : 1},${count}`

/** Each with its end, which the last one may lack. */
const linesOf = (text: string): string[] => text.match(/[^\n]*\n|[^\n]+$/g) ?? []

const ended = (line: string) => (line.endsWith('\n') ? line : `${line}\n\\ No newline at end of file\n`)

/** All lines of both with their signs, those that are in both said once. */
function linesBetween(before: readonly string[], after: readonly string[]): string[] {
  // The longest common rest from each pair of lines on: files that people write are small.
  const common = Array.from({ length: before.length + 1 }, () => new Uint32Array(after.length + 1))
  for (let old = before.length - 1; old >= 0; old--) {
    for (let now = after.length - 1; now >= 0; now--) {
      const isSame = before[old] === after[now]
      common[old]![now] = isSame
        ? common[old + 1]![now + 1]! + 1
        : Math.max(common[old + 1]![now]!, common[old]![now + 1]!)
    }
  }
  const lines: string[] = []
  let [old, now] = [0, 0]
  while (old < before.length || now < after.length) {
    const isSame = old < before.length && before[old] === after[now]
    const isGone = now === after.length || (old < before.length && common[old + 1]![now]! >= common[old]![now + 1]!)
    lines.push(isSame ? ` ${before[old]}` : isGone ? `-${before[old]}` : `+${after[now]}`)
    if (isSame || isGone) old++
    if (isSame || !isGone) now++
  }
  return lines
}
