/** PROTOCOL.md says what is so: its tables are compared with the source, and the rules that tests cite exist. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { closes, requestErrors, turnErrors } from '../../src/core/errors.ts'
import { limits } from '../../src/core/limits.ts'
import { routes, serverRoutes } from '../../src/http/app.ts'
import { usageLimits } from '../../src/http/usage.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const protocol = readFileSync(join(root, 'PROTOCOL.md'), 'utf8')
const yes = (is: boolean) => (is ? 'yes' : 'no')

/** The rows of the table whose first head is this, code quotes taken away. */
function tableOf(head: string): string[][] {
  const lines = protocol.split('\n')
  const begin = lines.findIndex((line) => line.startsWith(`| ${head} |`)) + 2
  const end = lines.findIndex((line, at) => at >= begin && !line.startsWith('|'))
  return lines.slice(begin, end === -1 ? undefined : end).map((line) => cellsOf(line))
}

function cellsOf(line: string): string[] {
  return line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim().replaceAll('`', ''))
}

test('the table of routes has every route with its right, and no other', () => {
  const rows = tableOf('Route').map(([route, right]) => [route, right])
  expect(rows.sort()).toEqual(
    [...routes, ...serverRoutes].map(({ method, path, right }) => [`${method} ${path}`, right]).sort(),
  )
})

test('the tables of errors have every code with what it means, and no other', () => {
  expect(tableOf('Code | Status')).toEqual(
    Object.entries(requestErrors).map(([code, row]) => [
      code,
      String(row.status),
      row.close === null ? '—' : String(row.close),
      yes(row.retryable),
      row.sentence.replaceAll('`', ''),
    ]),
  )
  expect(tableOf('Code | Tried again by itself')).toEqual(
    Object.entries(turnErrors).map(([code, row]) => [
      code,
      yes(row.transient),
      yes(row.canRetry),
      `${row.happened} ${row.next}`,
    ]),
  )
})

test('the table of closes has every code, and a request’s error is tried again where its socket is opened again', () => {
  expect(tableOf('Close')).toEqual(
    Object.entries(closes).map(([code, { reconnects, sentence }]) => [code, yes(reconnects), sentence]),
  )
  const differ = Object.values(requestErrors).filter(
    ({ close, retryable }) => close !== null && closes[close].reconnects !== retryable,
  )
  expect(differ).toEqual([])
})

test('the table of limits has the numbers of the source', () => {
  const shown = (value: number) => value.toLocaleString('en-US')
  const usually = (max: number, usual: number) => `${shown(max)}, usually ${shown(usual)}`
  expect(Object.fromEntries(tableOf('Limit'))).toEqual({
    'body of a request, bytes': shown(limits.requestBytesMax),
    'levels of a body': shown(limits.jsonDepthMax),
    'characters of an id': shown(limits.idCharactersMax),
    'parts of a message': shown(limits.partsMax),
    'changes of a message that waits': shown(limits.editsMax),
    'members of a session': shown(limits.membersMax),
    'invitations of a session that are good': shown(limits.invitesMax),
    'bytes of the data of an event of the app': shown(limits.eventBytesMax),
    'characters of a title': shown(limits.titleCharactersMax),
    "characters of a reason, or of a tool's error": shown(limits.reasonCharactersMax),
    "characters of a file's URL, but for data:": shown(limits.urlCharactersMax),
    "characters of a file's name": shown(limits.filenameCharactersMax),
    'bytes of a file': shown(limits.fileBytesMax),
    'files of a session': shown(limits.filesMax),
    'bytes of the files of a session': shown(limits.filesBytesMax),
    'bytes of the files in one prompt': shown(limits.promptFileBytesMax),
    'sessions of a page': usually(limits.sessionPageMax, limits.sessionPageDefault),
    'messages of a page or snapshot': usually(limits.messagePageMax, limits.messagePageDefault),
    'seconds of a long poll': usually(limits.longPollMax, limits.longPollDefault),
    'bytes of a long poll before it answers at once': shown(limits.longPollBytesMax),
    'bytes of a reply': shown(limits.replyBytesMax),
    'bytes of a frame to /api/chat/ws': shown(limits.chatRequestBytesMax),
    'bytes of a frame to /v1/realtime': shown(limits.realtimeFrameBytesMax),
    'sessions that are followed on one connection': shown(limits.followsMax),
    'bytes of frames of a user that are not accepted yet, in one process': shown(limits.framesOfUserBytesMax),
    'bytes that wait for a reader who is to be sent more': shown(limits.socketBufferBytesMax),
    'WebSockets of a user, in one process': shown(limits.socketsOfUserMax),
    'requests at a time on a WebSocket': shown(limits.socketRequestsMax),
    'characters of a requestId or ref': shown(limits.requestIdCharactersMax),
    'tickets of a user that wait to be used': shown(limits.ticketsOfUserMax),
    'devices of a user': shown(limits.devicesOfUserMax),
    'days of usage that are asked for at once': shown(usageLimits.daysMax),
    'rows of usage that are answered at once': shown(usageLimits.rowsMax),
    'bytes of an import': shown(limits.importBytesMax),
    'rows of an import': shown(limits.importRowsMax),
    'imported messages of a session': shown(limits.importedMessagesMax),
    'new imported rows of a user in a day (UTC)': shown(limits.importedRowsOfDayMax),
    'bytes of the data of a notice': shown(limits.notifyBytesMax),
    'seconds that typing lasts, unless it is said again': shown(limits.typingLastsMs / 1_000),
    'seconds of a ticket': shown(limits.ticketLastsMs / 1_000),
  })
})

test('every event that the SQL writes has a row, and no other', () => {
  const sql = execFileSync(
    'git',
    ['grep', '-hoE', "'(message|turn|attempt|session|approval|branch|member)\\.[a-z_]+'", '--', 'sql'],
    {
      cwd: root,
      encoding: 'utf8',
    },
  )
  const written = new Set(
    sql
      .trim()
      .split('\n')
      .map((name) => name.replaceAll("'", '')),
  )
  expect(
    tableOf('Type')
      .map(([type]) => type)
      .sort(),
  ).toEqual([...written].sort())
})

test('rules have rising numbers, each once, and every rule that a test cites exists', () => {
  const rules = [...protocol.matchAll(/\*\*P(\d+)\*\*/g)].map((match) => Number(match[1]))
  expect(rules.length).toBeGreaterThan(30)
  expect(rules).toEqual([...new Set(rules)].sort((a, b) => a - b))
  const titles = execFileSync('git', ['grep', '-hE', '--untracked', '^ *test(\\.each\\(.*\\))?\\(', '--', 'test'], {
    cwd: root,
    encoding: 'utf8',
  })
  const cited = [...titles.matchAll(/\bP(\d+)\b/g)].map((match) => Number(match[1]))
  expect(cited.length).toBeGreaterThan(0)
  expect(cited.filter((rule) => !rules.includes(rule))).toEqual([])
  const referred = [...protocol.matchAll(/(?<!\*)\bP(\d+)\b(?!\*)/g)].map((match) => Number(match[1]))
  expect(referred.filter((rule) => !rules.includes(rule))).toEqual([])
})
