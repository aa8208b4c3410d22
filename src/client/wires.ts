/** How what stands apart from the client asks its server: from the client's own address, as its user. */
import type { Wire } from './wire.ts'

/** By client. */
export const wires = new WeakMap<object, Wire>()
