/** Which model the server of the command line uses, by its environment. */
import { anthropic } from '../adapters/anthropic.ts'
import { openai } from '../adapters/openai.ts'
import { OptionError } from '../option-checks.ts'
import { demoReply } from '../reply/demo.ts'
import type { Reply } from '../reply/reply.ts'

type Environment = Readonly<Record<string, string | undefined>>

/** What is used where a key is set and no model is named. */
const usual = { openai: 'gpt-5-mini', anthropic: 'claude-haiku-4-5' } as const

/** `model` is its name for people. Throws an `OptionError` where a model is named whose key is missing. */
export function modelReply(environment: Environment): { reply: Reply; model: string } {
  const { HOLDFAST_MODEL: named, OPENAI_API_KEY: openaiKey, ANTHROPIC_API_KEY: anthropicKey } = environment
  const [, provider, id] = /^(openai|anthropic)\/(.+)$/.exec(named ?? '') ?? []
  const chosen = provider ?? (openaiKey ? 'openai' : anthropicKey ? 'anthropic' : undefined)
  if (chosen === undefined) {
    if (named)
      throw new OptionError(`HOLDFAST_MODEL is "${named}", but neither OPENAI_API_KEY nor ANTHROPIC_API_KEY is set.`)
    return { reply: demoReply(), model: 'demo (set OPENAI_API_KEY or ANTHROPIC_API_KEY for a real one)' }
  }
  if (chosen === 'openai') {
    if (!openaiKey) throw new OptionError(`HOLDFAST_MODEL is "${named}", but OPENAI_API_KEY is not set.`)
    const model = id ?? named ?? usual.openai
    return {
      reply: openai({ model, apiKey: openaiKey, baseUrl: baseUrl(environment, 'OPENAI_BASE_URL') }),
      model: `openai/${model}`,
    }
  }
  if (!anthropicKey) throw new OptionError(`HOLDFAST_MODEL is "${named}", but ANTHROPIC_API_KEY is not set.`)
  const model = id ?? named ?? usual.anthropic
  return {
    reply: anthropic({ model, apiKey: anthropicKey, baseUrl: baseUrl(environment, 'ANTHROPIC_BASE_URL') }),
    model: `anthropic/${model}`,
  }
}

/** Where the provider answers, if not at its own address. */
function baseUrl(environment: Environment, variable: 'OPENAI_BASE_URL' | 'ANTHROPIC_BASE_URL'): string | undefined {
  const url = environment[variable] || undefined
  if (url === undefined || isHttpUrl(url)) return url
  throw new OptionError(`${variable}: expected a URL like https://provider.example/v1, got "${url}".`)
}

export const isHttpUrl = (text: string) => URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)

/** A request that costs nothing and shows whether the provider is there and takes the key. Null: the demo model. */
export type Probe = { name: string; url: string; headers: Record<string, string> }

export function providerProbe(environment: Environment): Probe | null {
  const { model } = modelReply(environment)
  const { OPENAI_API_KEY: openaiKey = '', ANTHROPIC_API_KEY: anthropicKey = '' } = environment
  if (model.startsWith('openai/')) {
    const base = environment.OPENAI_BASE_URL || 'https://api.openai.com/v1'
    return { name: model, url: `${base}/models`, headers: { authorization: `Bearer ${openaiKey}` } }
  }
  if (!model.startsWith('anthropic/')) return null
  const base = environment.ANTHROPIC_BASE_URL || 'https://api.anthropic.com/v1'
  return {
    name: model,
    url: `${base}/models`,
    headers: { 'x-api-key': anthropicKey, 'anthropic-version': '2023-06-01' },
  }
}
