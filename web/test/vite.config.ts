import { defineConfig, mergeConfig } from 'vite'
import app from '../vite.config.ts'

/** The page's renderer of markdown alone on a page, for the corpus of hostile replies in test/web. */
export default defineConfig(mergeConfig(app, { root: import.meta.dirname }))
