import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

const isSeven = process.env.AI_SDK_MAJOR === '7'

/** The same page for both majors of the AI SDK: which one `@ai-sdk/react` and `ai` are is said here. */
export default defineConfig({
  root: process.env.PAGE_ROOT ?? import.meta.dirname,
  base: './',
  plugins: [react()],
  resolve: {
    alias: isSeven ? { '@ai-sdk/react': 'react7', ai: 'ai7' } : {},
    dedupe: ['ai', 'react', 'react-dom'],
  },
  build: { target: 'es2022', modulePreload: { polyfill: false } },
})
