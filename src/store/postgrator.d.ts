declare module 'postgrator' {
  export type Migration = { version: number; action: string; filename: string; name: string; getSql(): string }
  export default class Postgrator {
    constructor(config: {
      migrationPattern: string
      driver: 'pg'
      newline: 'LF'
      schemaTable: string
      execQuery(text: string): Promise<{ rows: unknown[] }>
    })
    migrate(): Promise<Migration[]>
    getMigrations(): Promise<Migration[]>
    getDatabaseVersion(): Promise<number>
    validateMigrations(version: number): Promise<Migration[]>
  }
}
