/** The numbers beside the chart: round ones, from zero to just above the highest day. */

/** `[0, 5000, 10000]` */
export function ticksOf(highest: number): number[] {
  const step = stepOf(Math.max(1, highest))
  const count = Math.max(1, Math.ceil(highest / step))
  return Array.from({ length: count + 1 }, (_, at) => at * step)
}

/** 1, 2 or 5 times a power of ten, so that there are two to five of them. Tokens are whole. */
function stepOf(highest: number): number {
  const power = 10 ** Math.floor(Math.log10(highest / 4))
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => highest / each <= 4)
  return Math.max(1, step ?? power)
}

/** Which days have their date below them: the last one, and so many before it as there is room for. */
export function labelledDays(count: number, width: number, labelWidth: number): number[] {
  const step = Math.ceil((count * labelWidth) / Math.max(labelWidth, width))
  const days: number[] = []
  for (let at = count - 1; at >= 0; at -= step) days.unshift(at)
  return days
}
