/**
 * A reply's markdown, safely. Nothing of what a model writes becomes markup by itself: HTML is shown as text (there is
 * no raw HTML plugin, so it never was anything else), and every element that markdown makes is drawn by one of the
 * components below, which pass on no attribute that they do not name. Links go to http, https and mailto; an image is
 * a button that says where it would be loaded from. This module and Streamdown are loaded after the page.
 */
import { createElement, type JSX, type ReactNode, useState } from 'react'
import { type Components, Streamdown } from 'streamdown'
import { CodeBlock } from './code-block.tsx'

type HastNode = { type: string; tagName?: string; value?: string; children?: HastNode[]; properties?: Properties }
type Properties = { [name: string]: unknown }
type Drawn = { children?: ReactNode; node?: HastNode; [name: string]: unknown }

const schemes = new Set(['http:', 'https:', 'mailto:'])

/** The address as the browser reads it, or null where a click must not lead there. */
function safeUrl(href: unknown): URL | null {
  if (typeof href !== 'string' || !URL.canParse(href)) return null
  const url = new URL(href)
  return schemes.has(url.protocol) ? url : null
}

function Link({ children, node }: Drawn) {
  const url = safeUrl(node?.properties?.href)
  if (url === null) return <span>{children}</span>
  return (
    <a href={url.href} target="_blank" rel="noopener noreferrer nofollow ugc" referrerPolicy="no-referrer">
      {children}
    </a>
  )
}

/** Loading an image tells its host that the reply was read, and can carry what was said away: so only on a click. */
function Picture({ node }: Drawn) {
  const [isAllowed, setAllowed] = useState(false)
  const url = safeUrl(node?.properties?.src)
  const alt = String(node?.properties?.alt ?? '')
  if (url === null || url.protocol === 'mailto:') return <span className="text-mute">[{alt || 'image'}]</span>
  if (isAllowed) return <img src={url.href} alt={alt} referrerPolicy="no-referrer" className="remote-image" />
  return (
    <button type="button" className="remote-image-ask" onClick={() => setAllowed(true)}>
      <span>{alt || 'Image'}</span>
      <span className="text-mute">
        Load from <b>{url.host}</b>
      </span>
    </button>
  )
}

function Pre({ node }: Drawn) {
  const code = node?.children?.find(({ tagName }) => tagName === 'code')
  const classes = code?.properties?.className
  const language = (Array.isArray(classes) ? classes : [])
    .map(String)
    .find((name) => name.startsWith('language-'))
    ?.slice('language-'.length)
  return <CodeBlock code={code ? plainText(code).replace(/\n$/, '') : ''} language={language ?? ''} />
}

const plainText = (node: HastNode): string => node.value ?? (node.children ?? []).map(plainText).join('')

// biome-ignore-start lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
const Table = ({ children }: Drawn) => (
  <section className="table-scroll" tabIndex={0} aria-label="Table">
    <table>{children}</table>
  </section>
)
// biome-ignore-end lint/a11y/noNoninteractiveTabindex: see above

const alignments = new Set(['left', 'center', 'right'])

const cell = (tag: 'td' | 'th') => (props: Drawn) => {
  const align = String(props.node?.properties?.align ?? '')
  return createElement(tag, alignments.has(align) ? { style: { textAlign: align } } : null, props.children)
}

function OrderedList({ children, node }: Drawn) {
  const start = Number(node?.properties?.start ?? 1)
  return (
    <ol dir="auto" start={Number.isSafeInteger(start) ? start : 1}>
      {children}
    </ol>
  )
}

/** A task list's box: a sign, not a control. */
const Box = ({ node }: Drawn) => <span>{node?.properties?.checked ? '☑ ' : '☐ '}</span>

const only =
  (tag: keyof JSX.IntrinsicElements) =>
  ({ children }: Drawn) =>
    createElement(tag, null, children)
/** What stands at its side goes where its text begins. A paragraph does so by style: with a direction of its own it would not count here. */
const directed =
  (tag: 'ul' | 'blockquote' | 'h3' | 'h4' | 'h5' | 'h6') =>
  ({ children }: Drawn) =>
    createElement(tag, { dir: 'auto' }, children)
const nothing = (tag: keyof JSX.IntrinsicElements) => () => createElement(tag)
const Inside = ({ children }: Drawn) => <span>{children}</span>

/** The page has a heading of its own: those of a reply stand below it. */
const components = {
  a: Link,
  img: Picture,
  pre: Pre,
  code: only('code'),
  inlineCode: only('code'),
  table: Table,
  th: cell('th'),
  td: cell('td'),
  ol: OrderedList,
  input: Box,
  h1: directed('h3'),
  h2: directed('h4'),
  h3: directed('h5'),
  h4: directed('h6'),
  h5: directed('h6'),
  h6: directed('h6'),
  ul: directed('ul'),
  blockquote: directed('blockquote'),
  hr: nothing('hr'),
  br: nothing('br'),
  section: only('div'),
  ...Object.fromEntries(
    (['p', 'li', 'strong', 'em', 'del', 'sup', 'sub', 'thead', 'tbody', 'tr'] as const).map((tag) => [tag, only(tag)]),
  ),
} as unknown as Components

/** Without the plugins that are there by default: the first of them would read HTML. */
const noRehypePlugins: [] = []
const linkSafety = { enabled: false }

/** `isByBlock`: each of its blocks is drawn by itself, and only what changed is drawn again. */
export type MarkdownProps = { text: string; isStreaming: boolean; isByBlock: boolean; className: string }

export default function Markdown({ text, isStreaming, isByBlock, className }: MarkdownProps) {
  return (
    <Streamdown
      className={className}
      mode={isByBlock ? 'streaming' : 'static'}
      parseIncompleteMarkdown={isStreaming}
      components={components}
      fallbackComponent={Inside as never}
      rehypePlugins={noRehypePlugins}
      linkSafety={linkSafety}
      controls={false}
      dir="auto"
    >
      {text}
    </Streamdown>
  )
}
