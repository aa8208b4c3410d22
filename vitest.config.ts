import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))

/**
 * Two projects: `check` holds the rules about the source itself (import directions, the packed tarball), which
 * `npm run check` runs too; `tests` is everything else. Two files run at a time, because the machine that CI has
 * has two cores and the files start servers of their own.
 */
export default defineConfig({
  resolve: { alias: { '#points': here('./test/support/points.mjs') } },
  test: {
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    projects: [
      { extends: true, test: { name: 'check', include: ['test/check/**/*.test.ts'] } },
      {
        extends: true,
        test: {
          name: 'tests',
          include: ['test/**/*.test.ts'],
          exclude: ['test/check/**', '**/node_modules/**'],
          globalSetup: ['test/support/global-setup.ts'],
        },
      },
    ],
  },
})
