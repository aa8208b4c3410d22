/** Devices that their users want notices on. A token goes in, and is answered to nobody. */
import * as z from 'zod'
import { limits } from '../core/limits.ts'
import type { PushDevice } from '../core/pushing.ts'
import { type DeviceRow, deviceHash, listDevices, registerDevice, removeDevice } from '../store/devices.ts'
import { idSchema, readBody } from './body.ts'
import { Problem } from './problem.ts'
import { type Call, json, type Route } from './route.ts'

const common = {
  id: idSchema.optional(),
  /** A language tag, RFC 5646. */
  locale: z
    .string()
    .regex(/^[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8}){0,8}$/, 'expected a language tag, as de or pt-BR')
    .optional(),
}
const deviceSchema = z.discriminatedUnion('kind', [
  z.strictObject({ ...common, kind: z.literal('expo'), token: z.string().min(1).max(250) }),
  z.strictObject({
    ...common,
    kind: z.literal('web'),
    subscription: z.strictObject({
      endpoint: z.string().min(1).max(limits.urlCharactersMax),
      // What a browser's PushSubscription says as well, and nobody keeps to.
      expirationTime: z.number().nullish(),
      keys: z.strictObject({ p256dh: z.string().max(100), auth: z.string().max(100) }),
    }),
  }),
])

async function register({ request, parts, principal }: Call): Promise<Response> {
  const asked = await readBody(request, deviceSchema)
  const sender = parts.push()[asked.kind]
  if (sender === undefined) {
    throw new Problem('not_found', `This server sends no notices to devices of the kind "${asked.kind}".`)
  }
  const device = deviceOf(asked)
  const refusal = sender.refusalOf(device)
  if (refusal !== null) throw new Problem('invalid_request', refusal)
  const ask = { id: asked.id ?? null, device, hash: deviceHash(device), max: limits.devicesOfUserMax }
  return json(201, shown(await registerDevice(parts.database, principal, ask)))
}

function deviceOf(asked: z.infer<typeof deviceSchema>): PushDevice {
  const locale = asked.locale === undefined ? {} : { locale: asked.locale }
  if (asked.kind === 'expo') return { kind: 'expo', token: asked.token, ...locale }
  const { endpoint, keys } = asked.subscription
  return { kind: 'web', subscription: { endpoint, keys }, ...locale }
}

function shown({ id, kind, locale, registeredAt }: DeviceRow) {
  return { id, kind, locale, registeredAt: registeredAt.toISOString() }
}

async function list({ parts, principal }: Call): Promise<Response> {
  return json(200, { data: (await listDevices(parts.database, principal)).map(shown) })
}

async function remove({ parts, principal, params }: Call): Promise<Response> {
  await removeDevice(parts.database, principal, params.deviceId!)
  return new Response(null, { status: 204 })
}

async function key({ parts }: Call): Promise<Response> {
  const publicKey = parts.push().web?.publicKey
  if (publicKey === undefined) throw new Problem('not_found', 'This server sends no notices to browsers.')
  return json(200, { publicKey })
}

export const deviceRoutes: Route[] = [
  {
    name: 'devices.register',
    method: 'POST',
    path: '/v1/devices',
    right: 'none',
    judgedBy: 'statement',
    handle: register,
  },
  { name: 'devices.list', method: 'GET', path: '/v1/devices', right: 'none', judgedBy: 'statement', handle: list },
  { name: 'devices.key', method: 'GET', path: '/v1/devices/key', right: 'none', judgedBy: 'statement', handle: key },
  {
    name: 'devices.remove',
    method: 'DELETE',
    path: '/v1/devices/:deviceId',
    right: 'none',
    judgedBy: 'statement',
    handle: remove,
  },
]
