#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { defineCommand, runMain } from 'citty'
import { pauseCommand, resumeCommand, retryCommand, stopCommand } from './control.ts'
import { demoCommand } from './demo.ts'
import { doctorCommand } from './doctor.ts'
import { exportCommand } from './export.ts'
import { importCommand } from './import.ts'
import { initCommand } from './init.ts'
import { migrateCommand } from './migrate.ts'
import { outboxCommand } from './outbox.ts'
import { serveCommand } from './serve.ts'
import { usageCommand } from './usage.ts'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

await runMain(
  defineCommand({
    meta: { name: 'holdfast', version, description: 'AI chat whose replies are never lost.' },
    default: 'demo',
    subCommands: {
      demo: demoCommand,
      serve: serveCommand,
      init: initCommand,
      migrate: migrateCommand,
      doctor: doctorCommand,
      retry: retryCommand,
      stop: stopCommand,
      pause: pauseCommand,
      resume: resumeCommand,
      usage: usageCommand,
      import: importCommand,
      export: exportCommand,
      outbox: outboxCommand,
    },
  }),
)
