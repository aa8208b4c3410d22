/** A provider that does what the last message says, so that a test decides how a reply ends by what it sends. */
import type { ProviderRequest, Script } from './provider.mjs'

/** One thing that the provider does. */
export type Step = Extract<Script, unknown[]>[number]
/** What waits for `passed` goes on when the test calls `open`. */
export type Gate = { passed: Promise<void>; open: () => void }

export function gate(): Gate {
  let open!: () => void
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return { passed, open }
}

/** A gate for each text, made when either side comes first. */
export function gatesByText(): (said: string) => Gate {
  const gates = new Map<string, Gate>()
  return (said) => {
    const there = gates.get(said) ?? gate()
    gates.set(said, there)
    return there
  }
}

export type Obedient = {
  script(request: ProviderRequest): Step[]
  /** A message that says `wait` is answered in two halves, the second when this is called with its text. */
  goOn(said?: string): void
  /** From now on what was refused is answered. */
  mend(): void
}

/** `refusals`: by a word of the message, what the provider does until `mend`. Any other message is answered at once. */
export function obedient(refusals: Record<string, Step>): Obedient {
  const gateOf = gatesByText()
  let mended = false
  return {
    script(request) {
      const said = lastSaid(request)
      const refusal = mended ? undefined : Object.entries(refusals).find(([word]) => said.includes(word))
      if (refusal) return [refusal[1]]
      if (!said.includes('wait')) return [{ text: `Re ${said} (${request.index})` }]
      return [{ text: `Half of ${said}` }, { wait: gateOf(said).passed }, { text: ', whole.' }]
    },
    goOn: (said = 'wait') => gateOf(said).open(),
    mend() {
      mended = true
    },
  }
}

/** The last of the user's messages in a prompt of OpenAI's form. */
export function lastSaid({ body }: Pick<ProviderRequest, 'body'>): string {
  return body.messages.findLast(({ role }: { role: string }) => role === 'user').content
}
