import { cookies } from 'next/headers'
import Link from 'next/link'
import { chat } from '@/lib/holdfast'
import { userCookie } from '@/lib/user'

export default async function Page() {
  const userId = (await cookies()).get(userCookie)?.value ?? ''
  const { data: sessions } = await chat.sessions.list({ userId })
  return (
    <main>
      <h1>Chats</h1>
      <ul>
        {sessions.map(({ id, title, createdAt }) => (
          <li key={id}>
            <Link href={`/chat/${id}`}>{title ?? createdAt}</Link>
          </li>
        ))}
      </ul>
      <Link href={`/chat/${crypto.randomUUID()}`} prefetch={false}>
        New chat
      </Link>
    </main>
  )
}
