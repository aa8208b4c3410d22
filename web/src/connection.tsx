/** How the connection stands: a sign in the header, and more of it where it is gone for long. */
import { useConnection, useHoldfast } from 'holdfast/react'
import { useState, useSyncExternalStore } from 'react'
import { AlertIcon } from './icons.tsx'
import { useIsLate, useNow } from './times.ts'

/** So long a connection may be gone before more is said of it than its sign does. */
export const downMs = 3_000

export function NoConnection({ isDown }: { isDown: boolean }) {
  const client = useHoldfast()
  const { retryAt } = useConnection()
  const isOnline = useIsOnline()
  const isLate = useIsLate(isDown, downMs)
  const isTold = isDown && (isLate || !isOnline)
  const now = useNow(250, isTold && retryAt !== null)
  const seconds = retryAt === null ? 0 : Math.ceil((Date.parse(retryAt) - now) / 1000)
  return (
    <div className={isTold ? 'no-connection' : undefined}>
      {isTold && <AlertIcon />}
      <p role="status" className="min-w-0 flex-1">
        {isTold && `${isOnline ? 'The server is not reached.' : 'You are offline.'} ${keptWords}`}
      </p>
      {isTold && (
        <button type="button" className="small-button" onClick={client.wake}>
          Try now
          {isOnline && seconds > 0 && <span aria-hidden="true"> · {seconds} s</span>}
        </button>
      )}
    </div>
  )
}

const keptWords = 'What you write is kept and sent later.'

const connectionWords = { connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', offline: 'Offline' }

export function ConnectionSign({ isLive, hasFailed }: { isLive: boolean; hasFailed: boolean }) {
  const isOnline = useIsOnline()
  const [wasLive, setWasLive] = useState(false)
  if (isLive && !wasLive) setWasLive(true)
  const sign = !isOnline ? 'offline' : isLive ? 'live' : wasLive || hasFailed ? 'reconnecting' : 'connecting'
  return (
    <p className={`connection is-${sign}`} role="status">
      <span className="connection-dot" />
      {connectionWords[sign]}
    </p>
  )
}

const useIsOnline = () => useSyncExternalStore(subscribeOnline, () => navigator.onLine)

function subscribeOnline(hear: () => void): () => void {
  window.addEventListener('online', hear)
  window.addEventListener('offline', hear)
  return () => {
    window.removeEventListener('online', hear)
    window.removeEventListener('offline', hear)
  }
}
