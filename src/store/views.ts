/** Views under the names that reports of a chat use, in a schema of the app's own. They are no part of Holdfast's schema. */
import { type Database, DatabaseError } from './database.ts'

export type ViewsOf = { schema: string; tenantId: string }

/** `schema` is an SQL name that needs no quotes: see `isSchemaName`. */
export function viewsSql({ schema, tenantId }: ViewsOf): string {
  const tenant = `'${tenantId.replaceAll("'", "''")}'`
  return `create schema if not exists ${schema};

-- What is shown of each conversation, those that one member alone sees included. A reply's user is who asked for it.
create or replace view ${schema}.chat_messages as
  select m.id, m.session_id, coalesce(m.author, a.author, o.user_id) as user_id, m.role,
      coalesce((select string_agg(p ->> 'text', E'\\n\\n' order by place)
        from jsonb_array_elements(m.parts) with ordinality x(p, place) where p ->> 'type' = 'text'), '') as content,
      case when m.error is null then m.status else 'error' end as status, m.error ->> 'code' as error,
      m.input_tokens, m.output_tokens, m.replies_to as user_message_id, m.model, m.created_at
    from holdfast.messages m
    left join holdfast.messages a on a.tenant_id = m.tenant_id and a.session_id = m.session_id and a.id = m.replies_to
    left join lateral (select user_id from holdfast.members where tenant_id = m.tenant_id and session_id = m.session_id
      and role = 'owner' order by joined_at, user_id limit 1) o on true
   where m.tenant_id = ${tenant} and m.shown;

create or replace view ${schema}.chat_sessions as
  select s.id, o.user_id, s.title, s.message_count + a.message_count as message_count,
      s.input_tokens + s.output_tokens + a.input_tokens + a.output_tokens as total_tokens,
      case when a.preview_seq > s.preview_seq then a.last_preview else s.last_preview end as last_preview,
      case when a.model_seq > s.model_seq then a.last_model else s.last_model end as last_model,
      s.created_at, greatest(s.updated_at, a.updated_at) as updated_at
    from holdfast.sessions s, holdfast.all_asides_of(s) a
    left join lateral (select user_id from holdfast.members where tenant_id = s.tenant_id and session_id = s.id
      and role = 'owner' order by joined_at, user_id limit 1) o on true
   where s.tenant_id = ${tenant};

-- Of replies that succeeded.
create or replace view ${schema}.user_usage_daily as
  select user_id, day, sum(messages)::bigint as messages, sum(input_tokens_succeeded)::bigint as input_tokens,
      sum(output_tokens_succeeded)::bigint as output_tokens
    from holdfast.usage_daily_parts where tenant_id = ${tenant} group by user_id, day;

-- A message and its reply that were written elsewhere, at the end of a conversation. Answers the reply's id.
create or replace function ${schema}.insert_chat_message(session_id text, user_id text, content text, reply text,
  model text default null, input_tokens int default null, output_tokens int default null,
  message_id text default gen_random_uuid()::text, reply_id text default gen_random_uuid()::text,
  created_at timestamptz default clock_timestamp()) returns text language sql as $$
  select holdfast.insert_pair(${tenant}, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
$$;
`
}

/** Not Holdfast's own, nor Postgres's. */
export function isSchemaName(name: string): boolean {
  return /^[a-z_][a-z0-9_]{0,62}$/.test(name) && name !== 'holdfast' && !name.startsWith('pg_')
}

const notAView = '42809'
const otherColumns = '42P16'

/** Makes them, or makes them anew. `taken`: the schema has something else under one of their names; nothing was changed. */
export async function createViews(database: Database, of: ViewsOf): Promise<'made' | 'taken'> {
  try {
    await database.transaction((query) => query(viewsSql(of)))
    return 'made'
  } catch (error) {
    if (error instanceof DatabaseError && (error.code === notAView || error.code === otherColumns)) return 'taken'
    throw error
  }
}
