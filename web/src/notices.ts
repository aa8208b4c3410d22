/**
 * Notices on this device: whether they are on, asking the browser for them, and closing those that were read elsewhere.
 * Nothing of it begins before a reply runs, or the person has once answered; the worker that shows them is
 * `public/notices-worker.js`.
 */
import { useEffect, useSyncExternalStore } from 'react'
import { goTo, placeNow } from './place.ts'
import { recall, remember } from './storage.ts'

export type Notices = {
  /** `none`: nothing is known so far, this browser has none, or the server sends none. `refused`: by the browser. */
  phase: 'none' | 'off' | 'on' | 'refused'
  isBusy: boolean
  /** They never answered, and may be asked. */
  mayAsk: boolean
  problem: string | null
}

/** `on` or `off`, as the person has chosen on this device. */
const choiceKey = 'notices'
/** This device's name for itself: with another subscription it is the same device. */
const deviceKey = 'notices-device'

let notices: Notices = { phase: 'none', isBusy: false, mayAsk: recall(choiceKey) === null, problem: null }
const hearers = new Set<() => void>()

function set(next: Partial<Notices>): void {
  notices = { ...notices, ...next }
  for (const hear of hearers) hear()
}

function subscribe(hear: () => void): () => void {
  hearers.add(hear)
  return () => hearers.delete(hear)
}

export const useNotices = () => useSyncExternalStore(subscribe, () => notices)

/** Over plain http from another machine there are no service workers; on a phone some browsers have no push. */
const isSupported =
  isSecureContext && 'serviceWorker' in navigator && 'PushManager' in window && 'Notification' in window

const isRefused = () => isSupported && Notification.permission === 'denied'

/** What the server's notices are subscribed to with. Null: it sends none. */
let publicKey: Promise<string | null> | null = null

function keyOfServer(): Promise<string | null> {
  publicKey ??= askKey().catch((error: unknown) => {
    // Asked again the next time.
    publicKey = null
    throw error
  })
  return publicKey
}

async function askKey(): Promise<string | null> {
  const answer = await ask('GET', 'key')
  if (answer.ok) return ((await answer.json()) as { publicKey: string }).publicKey
  if (answer.status === 404) return null
  throw new Error(`the server answered ${answer.status}.`)
}

/** It may be offered from now on, if the server sends any. */
async function offer(): Promise<void> {
  if (!isSupported || notices.phase !== 'none') return
  const key = await keyOfServer().catch(() => null)
  if (key !== null && notices.phase === 'none') set({ phase: isRefused() ? 'refused' : 'off' })
}

/** The person has pressed something that says what for. */
export async function turnOn(): Promise<void> {
  if (notices.isBusy) return
  set({ isBusy: true, problem: null })
  try {
    const permission = await Notification.requestPermission()
    if (permission !== 'granted') {
      // Who closed the browser's question has not answered it. It is not asked again by itself all the same.
      set({ phase: permission === 'denied' ? 'refused' : 'off', mayAsk: false })
      if (permission === 'denied') remember(choiceKey, 'off')
      return
    }
    await register()
    remember(choiceKey, 'on')
    set({ phase: 'on', mayAsk: false })
  } catch (error) {
    set({ problem: `Notices are not on: ${wordsOf(error)}` })
  } finally {
    set({ isBusy: false })
  }
}

export async function turnOff(): Promise<void> {
  if (notices.isBusy) return
  set({ isBusy: true, problem: null })
  remember(choiceKey, 'off')
  // What is not subscribed any more the server forgets by itself, when it sends the next one.
  const registration = await navigator.serviceWorker.getRegistration(scope).catch(() => undefined)
  const subscription = await registration?.pushManager.getSubscription().catch(() => null)
  await subscription?.unsubscribe().catch(() => false)
  const id = recall(deviceKey)
  if (id !== null) await ask('DELETE', encodeURIComponent(id)).catch(() => null)
  remember(deviceKey, null)
  set({ phase: 'off', mayAsk: false, isBusy: false })
}

/** Asked in the chat, and they do not want it. The switch stays. */
export function decline(): void {
  remember(choiceKey, 'off')
  set({ mayAsk: false })
}

const scope = import.meta.env.BASE_URL

/** Safe to repeat: the server knows the device by its name and endpoint. */
async function register(): Promise<void> {
  const key = await keyOfServer()
  if (key === null) throw new Error('this server sends none any more.')
  await navigator.serviceWorker.register(`${scope}notices-worker.js`)
  const { pushManager } = await navigator.serviceWorker.ready
  let subscription = await pushManager.getSubscription()
  if (subscription !== null && keyOf(subscription) !== key) {
    await subscription.unsubscribe()
    subscription = null
  }
  subscription ??= await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key })
  const id = recall(deviceKey)
  const body = { kind: 'web', subscription, locale: navigator.language, ...(id === null ? {} : { id }) }
  const answer = await ask('POST', '', body)
  const said = (await answer.json().catch(() => ({}))) as { id?: string; detail?: string }
  if (!answer.ok || said.id === undefined) throw new Error(said.detail ?? `the server answered ${answer.status}.`)
  remember(deviceKey, said.id)
}

/** In base64url, as the server says it. */
function keyOf({ options: { applicationServerKey } }: PushSubscription): string | null {
  if (applicationServerKey === null) return null
  const bytes = String.fromCharCode(...new Uint8Array(applicationServerKey))
  return btoa(bytes).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
}

function ask(method: string, path: string, body?: object): Promise<Response> {
  const headers = { accept: 'application/json', ...(body ? { 'content-type': 'application/json' } : {}) }
  const url = path === '' ? '/v1/devices' : `/v1/devices/${path}`
  return fetch(url, { method, headers, ...(body ? { body: JSON.stringify(body) } : {}) })
}

function wordsOf(error: unknown): string {
  if (error instanceof DOMException)
    return 'the browser’s push service is not reached, as in a private window. Try it again later.'
  if (error instanceof TypeError) return 'the server is not reached. Try it again later.'
  return (error as Error).message
}

/** A reply runs: so there is something to be told of. */
export function useOffer(isRunning: boolean): void {
  useEffect(() => {
    if (isRunning) void offer()
  }, [isRunning])
}

/** `isSignedIn`: the server knows who this is. */
export function useRegistered(isSignedIn: boolean): void {
  useEffect(() => {
    if (!isSignedIn || !isSupported || recall(choiceKey) === null) return
    if (recall(choiceKey) === 'on' && Notification.permission === 'granted') {
      register().then(
        () => set({ phase: 'on' }),
        () => void offer(),
      )
    } else void offer()
  }, [isSignedIn])
}

/**
 * Closes what the user has read by now on any of their devices. `sessions`: the list, which is drawn anew whenever one of
 * them was read on, and now and then.
 */
export function useClosed(sessions: readonly unknown[]): void {
  // biome-ignore lint/correctness/useExhaustiveDependencies: each list tells that something may have been read
  useEffect(() => void close(), [sessions])
  useEffect(() => {
    if (!isSupported) return
    const { serviceWorker } = navigator
    serviceWorker.addEventListener('message', onMessage)
    serviceWorker.startMessages()
    return () => serviceWorker.removeEventListener('message', onMessage)
  }, [])
}

/** What the worker says and asks. */
function onMessage({ data, ports }: MessageEvent<{ shows?: string; noticed?: object; open?: string }>): void {
  if (data.shows !== undefined) ports[0]?.postMessage(!document.hidden && placeNow().sessionId === data.shows)
  if (data.noticed !== undefined) void close()
  if (data.open !== undefined && data.open !== placeNow().sessionId) goTo(data.open)
}

/** So many chats with notices are looked at in one go. */
const chatsMax = 20
let isClosing = false
let isDue = false

async function close(): Promise<void> {
  if (!isSupported || Notification.permission !== 'granted') return
  isDue = true
  if (isClosing) return
  isClosing = true
  while (isDue) {
    isDue = false
    await closeRead().catch(() => undefined)
  }
  isClosing = false
}

async function closeRead(): Promise<void> {
  const worker = (await navigator.serviceWorker.getRegistration(scope))?.active
  if (!worker) return
  const standing = await standingIn(worker)
  const chats = new Set(standing.map(({ sessionId }) => sessionId))
  for (const sessionId of [...chats].slice(0, chatsMax)) {
    const upTo = await readUpTo(sessionId)
    worker.postMessage({ read: { sessionId, upTo } })
  }
}

const workerMs = 5_000

/** The worker is asked, which knows when one may ask the browser. */
function standingIn(worker: ServiceWorker): Promise<About[]> {
  const { port1, port2 } = new MessageChannel()
  return new Promise((resolve) => {
    port1.onmessage = ({ data }: MessageEvent<About[]>) => resolve(data)
    setTimeout(resolve, workerMs, [])
    worker.postMessage({ standing: true }, [port2])
  })
}

type About = { sessionId: string; seq: number }

/** A receipt that says nothing new is answered with how far it was read. What is gone needs no notice any more. */
async function readUpTo(sessionId: string): Promise<number> {
  const path = `/v1/sessions/${encodeURIComponent(sessionId)}/receipts`
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(path, { method: 'POST', headers, body: '{}' })
  if (answer.status === 404) return Number.POSITIVE_INFINITY
  return answer.ok ? ((await answer.json()) as { read: number }).read : -1
}
