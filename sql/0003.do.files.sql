-- Files that users sent: the bytes, once per session and content, beside the log and not in it. A part of a message names
-- its file by its path; so events, snapshots and prompts stay small, and the bytes are read where they are asked for.

create table holdfast.files (
  tenant_id text not null,
  session_id text not null,
  -- Made of the type and the content: the same file sent again is the same row, also from two devices at once.
  id text not null,
  media_type text not null,
  -- As whoever stored it first named it.
  filename text,
  size int not null generated always as (octet_length(bytes)) stored,
  bytes bytea not null,
  author text not null,
  -- As a message's: who may see it.
  audience text,
  created_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, id),
  -- Deleted with it. Who stores a file holds the session's lock, so the key's own lock waits for nobody.
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
);
-- Images and the like are compressed already: trying again only costs time.
alter table holdfast.files alter column bytes set storage external;

-- Outcomes: created, same (it is there), full (no more files, or no more bytes, in this session), not_found, forbidden
-- (readers). The session's lock makes the bounds exact.
create function holdfast.store_file(p_tenant text, p_session text, p_user text, p_id text, p_media_type text,
  p_filename text, p_bytes bytea, p_files_max int, p_bytes_max bigint, p_audience text) returns text language plpgsql as $$
declare v_role text;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  select role into v_role from holdfast.members
   where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if not found then return 'not_found'; end if;
  if v_role = 'reader' then return 'forbidden'; end if;
  if exists (select from holdfast.files where tenant_id = p_tenant and session_id = p_session and id = p_id) then
    return 'same';
  end if;
  if exists (select from holdfast.files where tenant_id = p_tenant and session_id = p_session
    having count(*) >= p_files_max or sum(size) + octet_length(p_bytes) > p_bytes_max) then
    return 'full';
  end if;
  insert into holdfast.files (tenant_id, session_id, id, media_type, filename, bytes, author, audience)
    values (p_tenant, p_session, p_id, p_media_type, p_filename, p_bytes, p_user, p_audience);
  return 'created';
end $$;
