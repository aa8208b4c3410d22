export function point(name: string): void | Promise<void>
export function onPoint(name: string, handler: (name: string) => void | Promise<void>): () => void
