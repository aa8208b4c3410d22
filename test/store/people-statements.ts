/** The statements of presence, notices and publishers, each sent once, and rows for them as many as there may be. */
import type { Database } from '../../src/store/database.ts'
import { deviceHash, listDevices, registerDevice, removeDevice } from '../../src/store/devices.ts'
import { readEpoch } from '../../src/store/epoch.ts'
import { leftOfLate, muteSession } from '../../src/store/members.ts'
import {
  changedElsewhere,
  elsewhereInMine,
  elsewhereInSessions,
  keepPresence,
  presentIn,
} from '../../src/store/presence.ts'
import { sweepPublished } from '../../src/store/publish.ts'
import {
  claimPublishing,
  giveBackPublishing,
  leavePublishing,
  membersWhoSee,
  movePublishing,
  publisherSeen,
  renewPublishing,
  sessionsOfMember,
} from '../../src/store/publishers.ts'
import {
  giveUpPushes,
  markPushes,
  notify,
  sayPushing,
  spreadPush,
  stillPushing,
  sweepPushes,
  takePushes,
  takeTickets,
} from '../../src/store/pushes.ts'
import type { Stored } from '../support/stored.ts'

/** In sessions that are there: a device for each user, a notice for each turn, somebody in each session, one to be published. */
export async function fillPeople({ query }: Stored): Promise<void> {
  await query(`insert into holdfast.devices (tenant_id, user_id, id, kind, address, address_hash)
    select 'default', 'u' || n, 'd', 'expo', '{}', 'hash ' || n from generate_series(0, 999) n`)
  await query(`insert into holdfast.pushes (tenant_id, session_id, about, device, user_id, turn_id, event, seq, state, ticket, due_at)
    select tenant_id, session_id, id::text, 'hash ' || substr(user_id, 2), user_id, id, 'message.ai_response', position + 2,
      'sent', 'ticket', now() + interval '1 day' from holdfast.turns`)
  await query(`insert into holdfast.processes (id, alive_until)
    select 'process ' || n, now() + interval '1 day' from generate_series(0, 9) n`)
  await query(`insert into holdfast.presences (tenant_id, session_id, user_id, process_id, state)
    select tenant_id, session_id, user_id, 'process ' || length(session_id), 'here' from holdfast.members`)
  await query(`insert into holdfast.published (tenant_id, session_id, id, hash, seq)
    select tenant_id, id, 'an event', 'hash', 1 from holdfast.sessions`)
  await query(`insert into holdfast.publishing (publisher, tenant_id, session_id, last_seq, published_seq)
    select 'service', tenant_id, id, next_seq - 1, next_seq - 2 from holdfast.sessions`)
}

export async function sendPeopleStatements(
  database: Database,
  { tenantId, sessionId, userId }: { tenantId: string; sessionId: string; userId: string },
): Promise<void> {
  // Makes the row in which it stands whether anybody pushes.
  await readEpoch(database, 'epoch')
  await sayPushing(database, { graceMs: 0, asksApp: false })
  await stillPushing(database, { asksApp: false })
  const device = { kind: 'expo', token: 'ExponentPushToken[a]' } as const
  const hash = deviceHash(device)
  await registerDevice(database, { tenantId, userId }, { id: 'phone', device, hash, max: 20 })
  const told = { tenantId, sessionId, userId, type: 'a.b', data: '{}', id: 'n1', hash: '' }
  await notify(database, told)
  const { taken } = await takePushes(database, 100, 60_000)
  const [notice] = taken
  if (notice === undefined) throw new Error('no notice was taken')
  await spreadPush(database, notice, [])
  await markPushes(database, [{ ...notice, state: 'sent', afterMs: 0, ticket: 'ticket' }])
  await takeTickets(database, 100, 60_000)
  await giveUpPushes(database, 100, false)
  await sweepPushes(database, 100)
  await sweepPublished(database, 100)
  await muteSession(database, { tenantId, sessionId, userId, muted: false })
  await listDevices(database, { tenantId, userId })
  await removeDevice(database, { tenantId, userId }, 'phone')

  const here = { tenantId, sessionId, userId, state: 'here' } as const
  await keepPresence(database, { processId: 'this', aliveMs: 10_000, changes: [here] })
  await elsewhereInSessions(database, 'this', [here])
  await elsewhereInMine(database, 'this')
  await changedElsewhere(database, 'this', 5_000)
  await presentIn(database, here)
  await leftOfLate(database, 10_000)

  await publisherSeen(database, 'service')
  await notify(database, { ...told, id: 'n2' })
  const who = { publisher: 'service', holder: 'this' }
  const [held] = await claimPublishing(database, who, { leaseMs: 5_000, limit: 1 })
  if (held === undefined) throw new Error('nothing was to be published')
  await renewPublishing(database, who, [held], 5_000)
  await movePublishing(database, who, held, { seq: held.seq, cursor: '', isOpen: false, leaseMs: 5_000 })
  await leavePublishing(database, who, held)
  await giveBackPublishing(database, who, held, null)
  await membersWhoSee(database, here, `user:${userId}`)
  await sessionsOfMember(database, here, { named: null, limit: 50 })
}
