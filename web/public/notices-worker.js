/**
 * The service worker of the web app: it shows the notices that come while nobody looks, and leads from them to their chat.
 * It keeps nothing, and no request of the page goes through it.
 */

/** So long a page may take to say what it shows. */
const answerMs = 2_000

self.addEventListener('install', () => self.skipWaiting())

self.addEventListener('push', (event) => {
  const { tag, title, body, data } = event.data.json()
  event.waitUntil(notice(title, { tag, body, data, renotify: true }))
})

self.addEventListener('message', (event) => event.waitUntil(hear(event)))

self.addEventListener('notificationclick', (event) => {
  const { notification } = event
  notification.close()
  event.waitUntil(open(notification.data?.sessionId))
})

async function notice(title, options) {
  const pages = await pagesOfApp()
  // Browsers allow it that nothing is shown while a page is in front.
  const looks = pages.filter((page) => page.focused && page.visibilityState === 'visible')
  if ((await Promise.all(looks.map((page) => showsChat(page, options.data)))).includes(true)) return
  const shown = self.registration.showNotification(title, options)
  showing.add(shown)
  await shown.finally(() => showing.delete(shown))
  // It may have been read on another device since it was sent: the pages find out, and close it.
  for (const page of pages) page.postMessage({ noticed: options.data })
}

/** On their way to the screen. */
const showing = new Set()

/**
 * Those that stand. Whoever asks the browser while one is on its way makes Chromium forget that one: it is listed never again,
 * so that nobody could close it (its PlatformNotificationContextImpl deletes what the system does not show so far). So all
 * ask here.
 */
async function standing() {
  while (showing.size > 0) await Promise.allSettled(showing)
  return await self.registration.getNotifications()
}

/** What a page asks: which stand, and to close those of a chat that were read. */
async function hear({ data, ports: [port] }) {
  if (data.standing) port.postMessage((await standing()).map((shown) => shown.data))
  const { read } = data
  if (read === undefined) return
  for (const shown of await standing()) {
    if (shown.data.sessionId === read.sessionId && shown.data.seq <= read.upTo) shown.close()
  }
}

/** Asked, because a page's address here may be the one that it was loaded with. */
function showsChat(page, { sessionId }) {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.onmessage = ({ data }) => resolve(data === true)
    setTimeout(resolve, answerMs, false)
    page.postMessage({ shows: sessionId }, [port2])
  })
}

/** The page that was in front last goes to the chat; where there is none, one is opened. */
async function open(sessionId) {
  const [page] = await pagesOfApp()
  if (page === undefined) {
    await self.clients.openWindow(`${self.registration.scope}#/${sessionId}`)
    return
  }
  page.postMessage({ open: sessionId })
  await page.focus()
}

/** Other apps may live on this host, beside the scope. */
async function pagesOfApp() {
  const pages = await self.clients.matchAll({ type: 'window', includeUncontrolled: true })
  return pages.filter(({ url }) => url.startsWith(self.registration.scope))
}
