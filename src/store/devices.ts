/** Devices that their users want notices on. Tokens and endpoints go in, and come out only to be sent to. */
import { createHash } from 'node:crypto'
import type { PushDevice, PushKind } from '../core/pushing.ts'
import type { Database, Statement } from './database.ts'

/** As its user is told of it. */
export type DeviceRow = { id: string; kind: PushKind; locale: string | null; registeredAt: Date }
type Owner = { tenantId: string; userId: string }

const shown = 'id, kind, locale, registered_at as "registeredAt"'

const registerStatement: Statement = {
  name: 'register-device',
  text: `select ${shown} from holdfast.register_device($1, $2, $3, $4, $5::jsonb, $6, $7, $8)`,
}

/** It is this user's from now on, and no other's. `id` null: the one that it has, or a new one. */
export async function registerDevice(
  database: Database,
  { tenantId, userId }: Owner,
  ask: { id: string | null; device: PushDevice; hash: string; max: number },
): Promise<DeviceRow> {
  const { kind, locale = null } = ask.device
  const address = ask.device.kind === 'expo' ? { token: ask.device.token } : ask.device.subscription
  const values = [tenantId, userId, ask.id, kind, JSON.stringify(address), ask.hash, locale, ask.max]
  return (await database.query<DeviceRow>('accept', registerStatement, values))[0]!
}

const listStatement: Statement = {
  name: 'list-devices',
  text: `select ${shown} from holdfast.devices where tenant_id = $1 and user_id = $2 order by registered_at desc, id`,
}

/** Last registered first. */
export function listDevices(database: Database, { tenantId, userId }: Owner): Promise<DeviceRow[]> {
  return database.query<DeviceRow>('read', listStatement, [tenantId, userId])
}

const removeStatement: Statement = {
  name: 'remove-device',
  text: 'delete from holdfast.devices where tenant_id = $1 and user_id = $2 and id = $3',
}

/** Does nothing where there is none. */
export async function removeDevice(database: Database, { tenantId, userId }: Owner, id: string): Promise<void> {
  await database.query('accept', removeStatement, [tenantId, userId, id])
}

/** What the device is, whoever uses it, and whatever its keys are by now. */
export function deviceHash(device: PushDevice): string {
  const address = device.kind === 'expo' ? device.token : device.subscription.endpoint
  return createHash('sha256').update(`${device.kind} ${address}`).digest('hex')
}
