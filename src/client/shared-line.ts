/**
 * One connection over HTTP for all tabs of a user: a browser has about six to one server. The tab that holds the lock opens it
 * for all. Each tab says what it follows, and is told what comes for it:
 *
 *   tab ──want, check──▶ hub, in the tab that leads ──one line──▶ server
 *   tab ◀──here, opened, frame, ended───┘
 *
 * Each tab's follows have their own cursors, so it does not matter which tab leads: when that one is closed, the others go on
 * from where they are. A session that two tabs show is told twice over the one line.
 */
import type { Line, LineEnd, LineFrame, LineStart, NamedLine, Wanted } from './line.ts'
import type { Locks } from './locks.ts'

export type ShareOptions = {
  /** The same for all who share. Null: nobody does. */
  name: string | null
  locks: Locks
  newId(): string
  /** A line of its own. */
  open(start: LineStart): NamedLine
}
export type Shared = { open(start: LineStart): Line; close(): void }

/** To whoever leads: `want` is all of what a tab follows now. `isBack`: whether the line itself lives is to be found out. */
type Word = { want: Want } | { check: string; isBack: boolean }
type Want = { line: string; list: boolean; isAway: boolean; follows: readonly Wanted[] }
/** To the lines that are named. `led`: another tab leads from now on. */
type Told = { here: true } | { opened: true } | { led: true } | { frame: LineFrame } | { ended: LineEnd }
type Message = { word: Word } | { to: readonly string[] | 'all'; told: Told }

/** A tab that leads and does not answer within this is frozen: another takes its place. */
const answerMs = 5_000
const askEveryMs = 20_000

export function shareLines({ name, locks, newId, open }: ShareOptions): Shared {
  const channel = name === null ? null : new BroadcastChannel(name)
  // Node would not end while it listens.
  ;(channel as { unref?(): void } | null)?.unref?.()
  /** Where this tab leads. */
  let hub: Hub | null = null
  let mine: { id: string; hear(told: Told): void } | null = null
  let hasAsked = false
  let release: () => void = () => undefined
  let isClosed = false

  const post = (message: Message) => {
    if (!isClosed) channel?.postMessage(message)
  }
  const say = (word: Word) => {
    if (hub === null) post({ word })
    else hub.take(word)
  }
  const tell = (to: readonly string[] | 'all', told: Told) => {
    post({ to, told })
    hear(to, told)
  }
  const hear = (to: readonly string[] | 'all', told: Told) => {
    if (mine !== null && (to === 'all' || to.includes(mine.id))) mine.hear(told)
  }
  channel?.addEventListener('message', ({ data }: MessageEvent<Message>) => {
    if ('told' in data) hear(data.to, data.told)
    else hub?.take(data.word)
  })

  const begin = () => {
    hub = createHub(open, tell, {
      watch(line, gone) {
        if (name !== null) void locks.hold(`${name} ${line}`, async () => gone())
      },
      // The server does not know this tab's user, or refuses them something: another tab may be let in.
      refused(all, ended) {
        const own = all.filter((line) => line === mine?.id)
        tell(own, { ended })
        if (name !== null) {
          end()
          release()
          void lead(false)
        }
        tell(
          all.filter((line) => !own.includes(line)),
          { ended: { how: 'ended', afterMs: ended.afterMs } },
        )
      },
    })
    tell('all', { led: true })
  }
  const end = () => {
    hub?.close()
    hub = null
  }
  const lead = async (isStolen: boolean): Promise<void> => {
    if (name === null) return begin()
    const held = () =>
      new Promise<void>((resolve) => {
        release = resolve
        if (isClosed) resolve()
        else begin()
      })
    // Another tab has taken it: this one waits in line again.
    await locks.hold(name, held, isStolen).catch(() => {
      end()
      hear('all', { ended: { how: 'ended', afterMs: 0 } })
      if (!isClosed) void lead(false)
    })
  }

  return {
    open(start) {
      const id = newId()
      let isOver = false
      let isDue = false
      let isHeard = false
      let isOpen = false
      let late: ReturnType<typeof setTimeout> | undefined
      let letGo: () => void = () => undefined

      const stop = (how: LineEnd) => {
        if (isOver) return
        isOver = true
        mine = null
        clearInterval(asking)
        clearTimeout(late)
        letGo()
        if (name === null) hub?.leave(id)
        start.ended(how)
      }
      const expect = () => {
        late ??= setTimeout(() => void lead(true), answerMs)
      }
      /** Whoever leads hears by this lock that the tab is gone. */
      const held = new Promise<void>((resolve) => {
        if (name === null) return resolve()
        void locks.hold(`${name} ${id}`, () => {
          resolve()
          return new Promise<void>((over) => {
            letGo = over
            if (isOver) over()
          })
        })
      })
      /** Once for all that changed in one go. */
      const want = async () => {
        if (isDue) return
        isDue = true
        await held
        isDue = false
        if (isOver) return
        expect()
        say({ want: { line: id, list: start.list(), isAway: start.isAway(), follows: start.follows() } })
      }
      const check = (isBack: boolean) => {
        if (!isHeard) return
        expect()
        say({ check: id, isBack })
      }
      const asking = setInterval(() => check(false), askEveryMs)

      mine = {
        id,
        hear(told) {
          clearTimeout(late)
          late = undefined
          if ('led' in told) {
            if (isHeard) stop({ how: 'ended', afterMs: 0 })
            else void want()
          } else if ('ended' in told) stop(told.ended)
          else if ('frame' in told) start.take(told.frame)
          else if ('opened' in told) {
            if (!isOpen) start.opened()
            isOpen = true
          } else isHeard = true
        },
      }
      if (!hasAsked) {
        hasAsked = true
        void lead(false)
      }
      void want()
      return {
        changed: () => void want(),
        check: () => check(true),
        close: () => stop({ how: 'ended', afterMs: 0 }),
      }
    },
    close() {
      isClosed = true
      end()
      release()
      channel?.close()
    },
  }
}

type Hub = { take(word: Word): void; leave(line: string): void; close(): void }
/** An object for each time that it is asked for: what an earlier one was still to be told is not told to this one. */
type Follow = { sessionId: string; cursor: string; ref: string }
type Tab = { list: boolean; isAway: boolean; follows: Map<string, Follow> }

type HubOptions = {
  /** Calls `gone` when the tab of this line is there no more. */
  watch(line: string, gone: () => void): void
  /** Ends all these lines. */
  refused(lines: string[], ended: LineEnd): void
}

/** So many are named in one request: what is on its way lets through 8 KB of an address (P130). */
const namedMax = 40
/** What changes within it is one change. */
const gatherMs = 20

function createHub(
  open: (start: LineStart) => NamedLine,
  tell: (to: readonly string[], told: Told) => void,
  { watch, refused }: HubOptions,
): Hub {
  const tabs = new Map<string, Tab>()
  /** One, or where much is followed several. */
  let lines: NamedLine[] = []
  /** Of the lines: what an earlier one still tells is not heard. */
  let opening = 0

  const close = () => {
    opening++
    clearTimeout(due)
    due = undefined
    for (const line of lines.splice(0)) line.close()
  }
  let due: ReturnType<typeof setTimeout> | undefined
  const renewSoon = () => {
    due ??= setTimeout(renew, gatherMs)
  }
  /** Opened anew from where each stands: what it follows it names when it is opened. */
  const renew = () => {
    close()
    const mine = opening
    const followed = [...tabs].flatMap(([id, { follows }]) => [...follows.values()].map((follow) => ({ id, follow })))
    const lists = () => [...tabs].flatMap(([id, { list }]) => (list ? [id] : []))
    if (followed.length + lists().length === 0) return
    const takeOf = (part: typeof followed) => (frame: LineFrame) => {
      if (mine !== opening) return
      if (!('sessionId' in frame)) return tell(frame.type === 'reconnect' ? [...tabs.keys()] : lists(), { frame })
      const { ref, ...told } = frame as LineFrame & { sessionId: string; ref?: string }
      const { id, follow } = part[Number(ref)]!
      const follows = tabs.get(id)?.follows
      if (follows?.get(follow.sessionId) !== follow) return
      if ('after' in frame) follow.cursor = frame.cursor as string
      else if (frame.type === 'reset' || frame.type === 'problem') follows.delete(follow.sessionId)
      tell([id], { frame: told as LineFrame })
    }
    const ended = (end: LineEnd) => {
      if (mine !== opening) return
      const all = [...tabs.keys()]
      close()
      tabs.clear()
      if (end.how === 'signed_out' || end.how === 'refused') refused(all, end)
      else tell(all, { ended: end })
    }
    let opened = 0
    const parts = Math.max(1, Math.ceil(followed.length / namedMax))
    lines = Array.from({ length: parts }, (_, at) => {
      const part = followed.slice(at * namedMax, (at + 1) * namedMax)
      return open({
        list: () => at === 0 && lists().length > 0,
        // One of the tabs that share it is looked at, or none.
        isAway: () => [...tabs.values()].every((tab) => tab.isAway),
        follows: () => part.map(({ follow }, ref) => ({ ...follow, ref: String(ref) })),
        take: takeOf(part),
        opened() {
          if (mine === opening && ++opened === parts) tell([...tabs.keys()], { opened: true })
        },
        ended,
      })
    })
  }
  const leave = (id: string) => {
    if (tabs.delete(id)) renewSoon()
  }

  return {
    take(word) {
      if ('check' in word) {
        // Of one that it does not know it has told the end.
        tell([word.check], tabs.has(word.check) ? { here: true } : { ended: { how: 'ended', afterMs: 0 } })
        if (word.isBack) for (const line of lines) line.check()
        return
      }
      const { line: id, list, isAway, follows } = word.want
      const before = tabs.get(id)
      if (before === undefined) watch(id, () => leave(id))
      const next = new Map<string, Follow>()
      for (const follow of follows) {
        const there = before?.follows.get(follow.sessionId)
        next.set(follow.sessionId, there?.ref === follow.ref ? there : { ...follow })
      }
      tabs.set(id, { list, isAway, follows: next })
      tell([id], { here: true })
      let isNew = before?.list !== list || before.isAway !== isAway || before.follows.size !== next.size
      for (const follow of next.values()) {
        if (before?.follows.get(follow.sessionId) === follow) continue
        isNew = true
        tell([id], { frame: { type: 'following', ...follow } })
      }
      if (isNew) renewSoon()
    },
    leave,
    close,
  }
}
