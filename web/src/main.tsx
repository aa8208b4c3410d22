import { HoldfastProvider } from 'holdfast/react'
import { StrictMode, startTransition } from 'react'
import { createRoot } from 'react-dom/client'
import { App } from './app.tsx'
import { client } from './client.ts'
import './style.css'
import './files.css'
import './people.css'
import './notices.css'

const root = createRoot(document.getElementById('root') as HTMLElement)
// In slices: all of it at once is longer than a frame.
startTransition(() =>
  root.render(
    <StrictMode>
      <HoldfastProvider client={client}>
        <App />
      </HoldfastProvider>
    </StrictMode>,
  ),
)
