/**
 * The tree of one lane's messages as plain objects: what is shown, what a turn's prompt is, which command does something.
 * Said without SQL, and in another way: a message holds those that may come after it and which of them is chosen, where
 * SQL has parents and marks. test/branches.test.ts holds the two together.
 */
export type Outcome = 'complete' | 'failed' | 'stopped'
export type Node = {
  id: string
  role: 'user' | 'assistant'
  text: string
  /** Not of a reply that failed. */
  isTold: boolean
  turn: Turn | null
  before: Node | null
  after: Node[]
  chosen: Node | null
}
export type Turn = {
  message: Node
  reply: Node
  position: number
  state: 'queued' | 'running' | Outcome
  attempt: number
  round: number
  steers: boolean
  /** The message that its own is another text of. */
  editOf: Node | null
  /** Withdrawn, or handed to another turn's reply. */
  gone: boolean
  steering: Node[]
  /** What the log holds of its latest attempt. */
  written: string
}
export type Tree = { root: Node; turns: Turn[] }

export function createTree(): Tree {
  const root: Node = {
    id: '',
    role: 'assistant',
    text: '',
    isTold: false,
    turn: null,
    before: null,
    after: [],
    chosen: null,
  }
  return { root, turns: [] }
}

function add(before: Node, node: Omit<Node, 'before' | 'after' | 'chosen'>): Node {
  const made: Node = { ...node, before, after: [], chosen: null }
  before.after.push(made)
  return made
}

function append(before: Node, node: Omit<Node, 'before' | 'after' | 'chosen'>): Node {
  const made = add(before, node)
  show(made)
  return made
}

function show(node: Node): void {
  for (let at = node; at.before; at = at.before) at.before.chosen = at
}

export function shown({ root }: Tree): Node[] {
  const path: Node[] = []
  for (let at = root.chosen; at; at = at.chosen) path.push(at)
  return path
}

export const isShown = (tree: Tree, node: Node): boolean => shown(tree).includes(node)

export const isBusy = ({ turns }: Tree): boolean => turns.some(isLive)
const isLive = ({ state }: Turn) => state === 'queued' || state === 'running'
const running = ({ turns }: Tree) => turns.find(({ state }) => state === 'running')

function begin(tree: Tree, before: Node, id: string, text: string, how: Pick<Turn, 'steers' | 'editOf'>): void {
  const message = append(before, { id, role: 'user', text, isTold: true, turn: null })
  const reply = append(message, { id: `${id}-reply`, role: 'assistant', text: '', isTold: false, turn: null })
  const turn: Turn = {
    ...{ message, reply, position: tree.turns.length, state: 'queued' as const, attempt: 0, round: 1 },
    ...{ ...how, gone: false, steering: [], written: '' },
  }
  message.turn = turn
  reply.turn = turn
  tree.turns.push(turn)
}

export function send(tree: Tree, id: string, whenBusy: string): 'created' | 'busy' {
  if (whenBusy === 'reject' && isBusy(tree)) return 'busy'
  const interrupted = whenBusy === 'interrupt' ? running(tree) : undefined
  const how = { steers: whenBusy === 'steer', editOf: null }
  begin(tree, shown(tree).at(-1) ?? tree.root, id, `text of ${id}`, how)
  if (interrupted) end(interrupted, 'stopped')
  return 'created'
}

export function end(turn: Turn, outcome: Outcome): void {
  turn.state = outcome
  turn.reply.text = turn.written
  turn.reply.isTold = outcome !== 'failed' && turn.written !== ''
}

export function stop(turn: Turn): 'stopped' | 'late' {
  if (!isLive(turn)) return 'late'
  if (turn.attempt === 0 && turn.round === 1) withdraw(turn)
  end(turn, 'stopped')
  return 'stopped'
}

function withdraw(turn: Turn): void {
  const { message, reply } = turn
  const before = message.before!
  turn.gone = true
  const chosen = before.chosen === message ? reply.chosen : before.chosen
  before.after = before.after.filter((each) => each !== message)
  for (const each of reply.after) each.before = before
  before.after.push(...reply.after)
  const old = before.after.find((each) => each === turn.editOf)
  before.chosen = chosen ?? old ?? before.after.toSorted(byAge).at(-1) ?? null
}

const byAge = (a: Node, b: Node) => a.turn!.position - b.turn!.position

export function retry(turn: Turn, replyId: string, roundsMax: number): 'queued' | 'same' | 'rounds' | 'gone' {
  if (turn.gone) return 'gone'
  if (turn.state !== 'failed' && turn.state !== 'stopped') return 'same'
  if (turn.round >= roundsMax) return 'rounds'
  const old = turn.reply
  again(turn, replyId)
  if (turn.message.chosen === old) turn.message.chosen = turn.reply
  turn.reply.after = old.after
  turn.reply.chosen = old.chosen
  for (const each of old.after) each.before = turn.reply
  old.after = []
  old.chosen = null
  return 'queued'
}

export function regenerate(turn: Turn, replyId: string, roundsMax: number): 'queued' | 'busy' | 'rounds' | 'gone' {
  if (turn.gone) return 'gone'
  if (hasLive(turn.message)) return 'busy'
  if (turn.round >= roundsMax) return 'rounds'
  turn.steering = []
  again(turn, replyId)
  show(turn.reply)
  return 'queued'
}

function again(turn: Turn, replyId: string): void {
  turn.round++
  turn.state = 'queued'
  turn.written = ''
  turn.reply = add(turn.message, { id: replyId, role: 'assistant', text: '', isTold: false, turn })
}

const hasLive = (node: Node): boolean => isLive(node.turn!) || node.after.some(hasLive)

export function edit(tree: Tree, turn: Turn, id: string, text: string): 'created' | 'changed' | 'busy' | 'gone' {
  if (turn.gone) return 'gone'
  if (turn.state === 'queued' && turn.attempt === 0 && turn.round === 1) {
    turn.message.text = text
    return 'changed'
  }
  if (hasLive(turn.message)) return 'busy'
  begin(tree, turn.message.before!, id, text, { steers: false, editOf: turn.message })
  return 'created'
}

export function select(tree: Tree, node: Node): 'selected' | 'same' {
  if (isShown(tree, node)) return 'same'
  show(node)
  return 'selected'
}

/** The turn that may run now: the first of those that wait, where none runs. */
export function claim(tree: Tree): Turn | null {
  const head = running(tree) ? undefined : tree.turns.find(({ state }) => state === 'queued')
  if (!head) return null
  head.state = 'running'
  head.attempt++
  return head
}

/** The ids of all messages that were handed to this round. */
export function steer(tree: Tree, turn: Turn): string[] {
  for (const each of tree.turns) {
    if (!each.steers || each.state !== 'queued' || each.attempt > 0 || !comesNext(each.message, turn)) continue
    end(each, 'stopped')
    each.gone = true
    each.message.after = each.reply.after
    each.message.chosen = each.reply.chosen
    for (const next of each.reply.after) next.before = each.message
    turn.steering.push(each.message)
  }
  return turn.steering.map(({ id }) => id)
}

/** Nothing stands between a message and the turn's reply but what was handed to it. */
function comesNext(node: Node, turn: Turn): boolean {
  let at = node.before
  while (at && turn.steering.includes(at)) at = at.before
  return at === turn.reply
}

export function prompt(turn: Turn): string[] {
  const path: Node[] = []
  let handed: Node[] = []
  for (let at = turn.message; at.before; at = at.before) {
    // What was handed to a reply is told before it.
    if (at !== turn.message && at.turn?.gone) handed.unshift(at)
    else {
      path.unshift(...(at.role === 'assistant' ? handed : []), at)
      if (at.role === 'assistant') handed = []
    }
  }
  return [...path, ...turn.steering].filter(({ isTold }) => isTold).map(({ role, text }) => `${role}: ${text}`)
}
