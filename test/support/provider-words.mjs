/** What the provider stub says on each wire, without the fields that no reader looks at. */

const model = 'stub-1'

/**
 * A provider's way to say things.
 *
 * @typedef {import('./provider.mjs').Step} Step
 * @typedef {import('./provider.mjs').Usage} Usage
 * @typedef {{
 *   wire: 'chat' | 'responses' | 'messages',
 *   open(usage: Usage | null): string,
 *   text(text: string): string,
 *   step(step: Step): string | Uint8Array,
 *   close(usage: (Usage | null)[]): string,
 * }} Words
 */

/** @param {unknown} data @param {string} [event] */
const sse = (data, event) =>
  `${event === undefined ? '' : `event: ${event}\n`}data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`

/** @param {string} path @returns {Words} */
export function wordsOf(path) {
  if (path.endsWith('/messages')) return anthropicWords()
  return path.endsWith('/responses') ? responsesWords() : openaiWords()
}

/** @returns {Words} */
function openaiWords() {
  /** @type {string | undefined} */
  let reason
  let tools = 0
  const head = { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1_760_000_000, model }
  /** @param {object} delta @param {string | null} finish_reason */
  const chunk = (delta, finish_reason = null) => sse({ ...head, choices: [{ index: 0, delta, finish_reason }] })
  /** @param {{ id: string, name: string, input: string[] }} tool */
  const toolCall = ({ id, name, input }) => {
    const index = tools++
    const begin = { index, id, type: 'function', function: { name, arguments: '' } }
    const rest = input.map((piece) => chunk({ tool_calls: [{ index, function: { arguments: piece } }] }))
    return [chunk({ tool_calls: [begin] }), ...rest].join('')
  }
  return {
    wire: 'chat',
    open: () => chunk({ role: 'assistant', content: '' }),
    text: (text) => chunk({ content: text }),
    step(step) {
      if ('text' in step) return chunk({ content: step.text })
      if ('reasoning' in step) return chunk({ reasoning_content: step.reasoning })
      if ('refusal' in step) return chunk({ refusal: step.refusal })
      if ('tool' in step) return toolCall(step.tool)
      if ('raw' in step) return step.raw
      if ('error' in step) return sse({ error: step.error })
      if ('finish' in step) {
        reason = step.finish
        return chunk({}, reason)
      }
      return ''
    },
    close(usage) {
      const finish = reason === undefined ? chunk({}, tools === 0 ? 'stop' : 'tool_calls') : ''
      const reports = usage.flatMap((report) =>
        report === null ? [] : [sse({ ...head, choices: [], usage: openaiUsage(report) })],
      )
      return [finish, ...reports, sse('[DONE]')].join('')
    },
  }
}

/** @param {Usage} usage */
function openaiUsage({ inputTokens, outputTokens, cachedInputTokens, reasoningTokens }) {
  return {
    prompt_tokens: inputTokens,
    completion_tokens: outputTokens,
    total_tokens: inputTokens + outputTokens,
    prompt_tokens_details: { cached_tokens: cachedInputTokens ?? 0 },
    completion_tokens_details: { reasoning_tokens: reasoningTokens ?? 0 },
  }
}

/** @returns {Words} */
function responsesWords() {
  let sequence = 0
  let items = 0
  /** @type {{ kind: 'text' | 'reasoning', id: string, text: string } | undefined} */
  let open
  /** @type {string | undefined} */
  let reason
  /** @param {string} type @param {object} data */
  const event = (type, data) => sse({ type, sequence_number: sequence++, ...data }, type)
  /** @param {string} type @param {object} item */
  const itemEvent = (type, item) => event(`response.output_item.${type}`, { output_index: items - 1, item })
  const place = () => ({ item_id: open?.id, output_index: items - 1 })
  const begin = { id: 'resp_1', object: 'response', created_at: 1_760_000_000, model, status: 'in_progress' }
  const message = { type: 'message', role: 'assistant' }

  /** @param {'text' | 'reasoning'} kind */
  const begun = (kind) => {
    if (open?.kind === kind) return ''
    const before = close()
    open = { kind, id: `${kind}_${items++}`, text: '' }
    const { id } = open
    if (kind === 'text') {
      const part = { type: 'output_text', text: '', annotations: [] }
      const added = itemEvent('added', { ...message, id, status: 'in_progress', content: [] })
      return before + added + event('response.content_part.added', { ...place(), content_index: 0, part })
    }
    const part = { type: 'summary_text', text: '' }
    const added = itemEvent('added', { type: 'reasoning', id, summary: [] })
    return before + added + event('response.reasoning_summary_part.added', { ...place(), summary_index: 0, part })
  }
  /** @param {'text' | 'reasoning'} kind @param {string} delta */
  const piece = (kind, delta) => {
    const start = begun(kind)
    if (open !== undefined) open.text += delta
    return kind === 'text'
      ? start + event('response.output_text.delta', { ...place(), content_index: 0, delta })
      : start + event('response.reasoning_summary_text.delta', { ...place(), summary_index: 0, delta })
  }
  const close = () => {
    if (open === undefined) return ''
    const { kind, id, text } = open
    const part = kind === 'text' ? { type: 'output_text', text, annotations: [] } : { type: 'summary_text', text }
    const done =
      kind === 'text'
        ? event('response.output_text.done', { ...place(), content_index: 0, text }) +
          itemEvent('done', { ...message, id, status: 'completed', content: [part] })
        : event('response.reasoning_summary_part.done', { ...place(), summary_index: 0, part }) +
          itemEvent('done', { type: 'reasoning', id, summary: [part] })
    open = undefined
    return done
  }
  /** @param {{ id: string, name: string, input: string[] }} tool */
  const toolCall = ({ id, name, input }) => {
    const before = close()
    const at = { item_id: `fc_${items}`, output_index: items++ }
    const item = { type: 'function_call', id: at.item_id, call_id: id, name, arguments: '' }
    const deltas = input.map((delta) => event('response.function_call_arguments.delta', { ...at, delta }))
    const whole = { ...item, arguments: input.join(''), status: 'completed' }
    return [before, itemEvent('added', item), ...deltas, itemEvent('done', whole)].join('')
  }
  return {
    wire: 'responses',
    open: () => event('response.created', { response: begin }) + event('response.in_progress', { response: begin }),
    text: (text) => piece('text', text),
    step(step) {
      if ('text' in step) return piece('text', step.text)
      if ('reasoning' in step) return piece('reasoning', step.reasoning)
      if ('refusal' in step) {
        const start = begun('text')
        return start + event('response.refusal.delta', { ...place(), content_index: 0, delta: step.refusal })
      }
      if ('tool' in step) return toolCall(step.tool)
      if ('raw' in step) return step.raw
      if ('error' in step) return event('error', { error: step.error })
      if ('finish' in step) reason = step.finish
      return ''
    },
    close(usage) {
      const [status, why] = reason === undefined ? ['completed', {}] : ['incomplete', { reason }]
      const end = { ...begin, status, incomplete_details: reason === undefined ? null : why }
      const reports = usage.map((report) =>
        event(`response.${status}`, {
          response: report === null ? end : { ...end, usage: responsesUsage(report) },
        }),
      )
      return close() + reports.join('')
    },
  }
}

/** @param {Usage} usage */
function responsesUsage({ inputTokens, outputTokens, cachedInputTokens, reasoningTokens }) {
  return {
    input_tokens: inputTokens,
    input_tokens_details: { cached_tokens: cachedInputTokens ?? 0 },
    output_tokens: outputTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens ?? 0 },
    total_tokens: inputTokens + outputTokens,
  }
}

/** @returns {Words} */
function anthropicWords() {
  let blocks = 0
  /** @type {'text' | 'thinking' | undefined} */
  let open
  let hasTools = false
  /** @type {string | undefined} */
  let reason
  /** @param {{ type: string, [key: string]: unknown }} data */
  const event = (data) => sse(data, data.type)
  const close = () => {
    if (open === undefined) return ''
    const signature = { type: 'signature_delta', signature: 'c2lnbmVk' }
    const signed =
      open === 'thinking' ? event({ type: 'content_block_delta', index: blocks - 1, delta: signature }) : ''
    open = undefined
    return signed + event({ type: 'content_block_stop', index: blocks - 1 })
  }
  /** @param {'text' | 'thinking'} kind @param {string} piece */
  const delta = (kind, piece) => {
    let start = ''
    if (open !== kind) {
      start = close() + event({ type: 'content_block_start', index: blocks, content_block: { type: kind, [kind]: '' } })
      open = kind
      blocks += 1
    }
    const data = { type: 'content_block_delta', index: blocks - 1, delta: { type: `${kind}_delta`, [kind]: piece } }
    return start + event(data)
  }
  /** @param {{ id: string, name: string, input: string[] }} tool */
  const toolCall = ({ id, name, input }) => {
    hasTools = true
    const before = close()
    const index = blocks++
    const block = { type: 'tool_use', id, name, input: {} }
    const deltas = input.map((piece) =>
      event({ type: 'content_block_delta', index, delta: { type: 'input_json_delta', partial_json: piece } }),
    )
    const start = event({ type: 'content_block_start', index, content_block: block })
    return [before, start, ...deltas, event({ type: 'content_block_stop', index })].join('')
  }
  /** @param {string} stop_reason @param {Usage | null} usage */
  const messageDelta = (stop_reason, usage) => {
    const said = usage === null ? {} : { usage: { output_tokens: usage.outputTokens } }
    return event({ type: 'message_delta', delta: { stop_reason, stop_sequence: null }, ...said })
  }
  return {
    wire: 'messages',
    open(usage) {
      const cached = usage?.cachedInputTokens ?? 0
      const said =
        usage === null
          ? {}
          : {
              usage: {
                input_tokens: usage.inputTokens - cached,
                cache_creation_input_tokens: 0,
                cache_read_input_tokens: cached,
                output_tokens: 1,
              },
            }
      const message = {
        id: 'msg_1',
        type: 'message',
        role: 'assistant',
        content: [],
        model,
        stop_reason: null,
        ...said,
      }
      return event({ type: 'message_start', message }) + event({ type: 'ping' })
    },
    text: (text) => delta('text', text),
    step(step) {
      if ('text' in step) return delta('text', step.text)
      if ('reasoning' in step) return delta('thinking', step.reasoning)
      if ('refusal' in step) return delta('text', step.refusal)
      if ('tool' in step) return toolCall(step.tool)
      if ('raw' in step) return step.raw
      if ('error' in step) return event({ type: 'error', error: step.error })
      if ('finish' in step) reason = step.finish
      return ''
    },
    close(usage) {
      const why = reason ?? (hasTools ? 'tool_use' : 'end_turn')
      const reports = usage.map((report) => messageDelta(why, report))
      return [close(), ...reports, event({ type: 'message_stop' })].join('')
    },
  }
}
