export const { account } = globalThis.phone
