import { cookies } from 'next/headers'
import Chat from '@/app/chat'
import { chat } from '@/lib/holdfast'
import { userCookie } from '@/lib/user'

export default async function Page({ params }: { params: Promise<{ id: string }> }) {
  const { id } = await params
  const userId = (await cookies()).get(userCookie)?.value ?? ''
  const messages = await chat.messages.forUseChat(id, { userId })
  return <Chat key={id} id={id} messages={messages} />
}
