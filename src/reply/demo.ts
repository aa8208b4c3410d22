import { ReplyError } from '../core/errors.ts'
import { demoToolFor, demoToolReply, type Pace, paceOf, wordsOf } from './demo-tools.ts'
import { textOf } from './message.ts'
import type { Reply, ReplyContext } from './reply.ts'

/**
 * The demo model: what answers while no key is set. It says that it is no real model and how to set one up, and shows
 * on request how the server behaves: `slow`, `long`, `fail`, `fail once`, a tool (`roll the dice`), and one that asks
 * first (`send an email`). The same message always gets the same words, but for the numbers on the dice.
 *
 * `wordsPerSecond` is its pace, 20 by default, about that of a hosted model.
 */
export function demoReply({ wordsPerSecond = 20 }: { wordsPerSecond?: number } = {}): Reply {
  return (context) => {
    const pace = paceOf(wordsPerSecond, context.signal)
    const tool = demoToolFor(textOf(context.message))
    return tool ? demoToolReply(tool, context, pace) : demoText(context, pace)
  }
}

async function* demoText({ message, attempt, usage }: ReplyContext, pace: Pace) {
  const said = textOf(message)
  const { text, failsAfterWords } = planFor(said, attempt)
  const words = wordsOf(text)
  for (const word of words.slice(0, failsAfterWords)) {
    await pace()
    yield word
  }
  if (failsAfterWords !== undefined) {
    throw new ReplyError('provider_overloaded', 'The demo model was asked to fail.')
  }
  const outputTokens = words.length
  usage({ provider: 'demo', model: 'demo', inputTokens: wordsOf(said).length, outputTokens, finishReason: 'stop' })
}

type Plan = { text: string; failsAfterWords?: number }

function planFor(said: string, attempt: number): Plan {
  switch (requestOf(said)) {
    case 'slow':
      return { text: slowText }
    case 'long':
      return { text: longText }
    case 'fail':
      return { text: failText, failsAfterWords: 12 }
    case 'fail once':
      return attempt === 1 ? { text: failText, failsAfterWords: 12 } : { text: failedOnceText }
    default:
      return { text: thoughtfulText(said) }
  }
}

/** The message without case, marks and spaces around it: `Fail once!` asks for `fail once`. */
function requestOf(said: string): string {
  return said
    .toLowerCase()
    .replace(/[^a-z ]/g, '')
    .replace(/ +/g, ' ')
    .trim()
}

const setUp =
  'Set `OPENAI_API_KEY` or `ANTHROPIC_API_KEY` in the environment and start the server again to talk to a real one.'

function thoughtfulText(said: string): string {
  const words = wordsOf(said).length
  const counted = words === 1 ? 'one word' : `${words} words`
  const heard = words === 0 ? 'Your message has no text that I could read' : `You wrote ${counted}:\n\n${quoted(said)}`
  return [
    `I am the demo model, so I have no opinion of my own. ${setUp}`,
    heard,
    `${remarkOn(said)} Your message was stored before it was acknowledged, and each of these words before you saw it: reload the page, close it, or open it on another device, and nothing is missing.`,
    'Send `slow`, `long`, `fail` or `fail once` to see how longer and unluckier replies behave, `roll the dice` to see a tool at work, and `send an email` to be asked before one runs.',
  ].join('\n\n')
}

const quotedCharsMax = 400

function quoted(said: string): string {
  const shown = said.length > quotedCharsMax ? `${said.slice(0, quotedCharsMax)}…` : said
  return shown
    .trim()
    .split('\n')
    .map((line) => `> ${line}`)
    .join('\n')
}

function remarkOn(said: string): string {
  if (said.includes('?')) return 'It is a question, and a real model would try to answer it.'
  if (said.includes('```')) return 'There is code in it, and a real model would read it.'
  if (said.length > quotedCharsMax) return 'It is long, and I quoted only its beginning.'
  return 'A real model would have taken it from there.'
}

const slowLineCount = 60

/** A line a second at the usual pace; the numbers show at a glance that no line is missing and none comes twice. */
const slowText = [
  `This takes about a minute. I am the demo model; ${setUp}`,
  ...Array.from({ length: slowLineCount }, (_, index) => `${index + 1}. ${slowLine(index)}`),
].join('\n')

function slowLine(index: number): string {
  const lines = [
    'Close this page now and come back later: the reply goes on without you, and you will find all of it here.',
    'Open the same session on another device, and both will show the same words at the same time, in the same order.',
    'Kill the server with a signal that cannot be caught: another one takes over, and this reply is written to its end.',
    'Press stop, and no word comes after it; what was written until then stays, and the next message is answered as ever.',
    'Turn off the network for a while: when it is back, only what you have missed is sent, and nothing twice.',
    'Send another message while this one is being answered: it is stored at once, and waits for its turn behind it.',
  ]
  return lines[index % lines.length]!
}

const code = [
  '```ts',
  "import { createHoldfast } from 'holdfast'",
  '',
  'export const chat = createHoldfast({',
  '  reply: async function* ({ message }) {',
  "    yield 'You said: '",
  "    for (const part of message.parts) if (part.type === 'text') yield part.text",
  '  },',
  '})',
  '```',
].join('\n')

const sections = [
  ['What happens to a message', 'It is stored with its turn in one transaction, and only then acknowledged.'],
  ['What happens to a reply', 'Each piece is stored before it is shown, so a crash cannot show what the log lacks.'],
  ['What happens in a crash', 'The lease runs out, another runner takes over, and older writes are refused.'],
  ['What happens on return', 'The client names where it stood and gets what came after, once and in order.'],
] as const

const longText = [
  `# A long reply of the demo model\n\n${setUp}`,
  ...sections.flatMap(([title, sentence], index) => [
    `## ${index + 1}. ${title}`,
    `${sentence} This paragraph is here to be long enough to scroll, with **bold**, *italic*, \`code\` and a [link](https://example.com), so that you can see how they are shown while they are still being written.`,
    `* a first point about it\n* a second one, which is a little longer than the first\n* and a third`,
    `And a reply as a function, section ${index + 1}:\n\n${code}`,
    '| Step | Where | When |\n|---|---|---|\n| accept | in Postgres | before the answer |\n| append | in Postgres | before it is shown |',
  ]),
  'That is the end of the long reply, and it is a whole one.',
].join('\n\n')

const failText = `I am the demo model, and you asked me to fail, so in the middle of this sentence I break off, as a provider does now and then.`

const failedOnceText = `The first attempt failed, as you asked. This is the second one, made by the server on its own: you did not have to send anything again, and what the first attempt wrote is gone. I am the demo model; ${setUp}`
