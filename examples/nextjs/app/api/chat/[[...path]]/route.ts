import { chat } from '@/lib/holdfast'

export const { GET, POST } = chat.handlers
