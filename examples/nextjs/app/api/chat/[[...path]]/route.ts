import { chat } from '@/lib/chat'

export const { GET, POST } = chat.handlers
