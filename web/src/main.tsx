import { HoldfastProvider } from 'holdfast/react'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { App } from './app.tsx'
import { client } from './client.ts'
import './style.css'
import './files.css'
import './people.css'
import './notices.css'

createRoot(document.getElementById('root') as HTMLElement).render(
  <StrictMode>
    <HoldfastProvider client={client}>
      <App />
    </HoldfastProvider>
  </StrictMode>,
)
