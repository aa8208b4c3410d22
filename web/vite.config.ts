import { fileURLToPath } from 'node:url'
import tailwindcss from '@tailwindcss/vite'
import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

/** In place of what Streamdown brings for classes that overrule each other: it takes a frame to begin, and none of ours do. */
const plainMerge = fileURLToPath(new URL('src/plain-merge.ts', import.meta.url))

/** The package of this repository, by its public entries, as whoever installs it has them. */
const entry = (path: string) => fileURLToPath(new URL(`../dist/${path}`, import.meta.url))

/**
 * `Features.DirSelector` of lightningcss, which Vite brings. By itself it makes `:dir(rtl)` a list of languages, and a page says
 * its direction, whatever language it is in. A browser that does not know the selector leaves these rules out.
 */
const dirSelector = 4

/** Nothing is inlined, neither scripts nor data: the page runs under a policy that allows its own files and no more. */
export default defineConfig({
  plugins: [react(), tailwindcss()],
  resolve: {
    alias: {
      'holdfast/client': entry('client/client.js'),
      'holdfast/react': entry('react/index.js'),
      'tailwind-merge': plainMerge,
    },
    dedupe: ['react', 'react-dom'],
  },
  css: { lightningcss: { exclude: dirSelector } },
  build: { target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false } },
})
