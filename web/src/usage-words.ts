/** Figures as people read them. */
import type { Figures } from './usage.ts'

const whole = new Intl.NumberFormat()
const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 })
const money = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 })
const smallMoney = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 2 })

export const countWords = (count: number) => whole.format(count)
/** For where there is little room. */
export const shortWords = (count: number) => compact.format(count)

/** In whatever currency the app's prices are: the server knows none. */
export function costWords({ cost, isCostPartial }: Figures): string {
  if (cost === null) return '–'
  const words = (cost > 0 && cost < 1 ? smallMoney : money).format(cost)
  return isCostPartial ? `≥ ${words}` : words
}

export const manyWords = (count: number, one: string, many: string) =>
  `${countWords(count)} ${count === 1 ? one : many}`

/** A sentence for whoever does not see the chart. */
export function usedWords(figures: Figures): string {
  const { inputTokens, outputTokens, messages, cost, estimated } = figures
  return [
    `${countWords(inputTokens)} tokens in, ${countWords(outputTokens)} out`,
    manyWords(messages, 'message', 'messages'),
    ...(cost === null ? [] : [`cost ${costWords(figures)}`]),
    ...(estimated > 0 ? ['partly estimated'] : []),
  ].join(', ')
}
