/** As `findLastIndex`, which not every engine of a phone has. -1: none is. */
export function lastIndex<Item>(items: readonly Item[], is: (item: Item) => boolean): number {
  let at = items.length - 1
  while (at >= 0 && !is(items[at]!)) at--
  return at
}
