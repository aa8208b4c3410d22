-- Publishers: services over which an app's clients hear what is in the log (src/log/publishing.ts). What is published comes
-- from the log, after a position that each publisher has in each session: so a process that dies leaves no gap.

-- Who publishes. `seen_at` is renewed while a process does: for one that is gone nothing is noted any more.
create table holdfast.publishers (
  name text primary key,
  seen_at timestamptz not null default clock_timestamp()
);

-- A publisher's position in a session, from the first event on that is written while it is there. It outlives the session
-- until that was told.
create table holdfast.publishing (
  publisher text not null,
  tenant_id text not null,
  session_id text not null,
  -- Of the log, as noted by its writers.
  last_seq int not null,
  published_seq int not null,
  -- As followers have it, for the chunks of open attempts. Null: after `published_seq`.
  cursor text,
  -- An attempt was open there: more may come, of which no event tells.
  is_open boolean not null default false,
  -- Who publishes until `due_at`. The fence tells a claim from the ones before it.
  holder text,
  fence int not null default 0,
  -- Not to be claimed before.
  due_at timestamptz not null default clock_timestamp(),
  failures int not null default 0,
  primary key (publisher, tenant_id, session_id)
) with (fillfactor = 70);
-- Only sessions in which something is to be published: the others are never looked at.
create index publishing_due on holdfast.publishing (publisher, due_at) where last_seq > published_seq or is_open;

-- With the events themselves, whoever writes them. Where nobody publishes that is one look into a table of no rows, apart,
-- because to begin the insert costs several times as much.
create function holdfast.note_publishing() returns trigger language plpgsql as $$
begin
  if not exists (select from holdfast.publishers where seen_at > now() - interval '1 day') then return null; end if;
  insert into holdfast.publishing as p (publisher, tenant_id, session_id, last_seq, published_seq)
    select n.name, e.tenant_id, e.session_id, max(e.seq), min(e.seq) - 1
      from holdfast.publishers n cross join added e
     where n.seen_at > now() - interval '1 day'
     group by n.name, e.tenant_id, e.session_id
     order by n.name, e.tenant_id, e.session_id
    on conflict (publisher, tenant_id, session_id) do update set last_seq = greatest(p.last_seq, excluded.last_seq);
  return null;
end $$;
create trigger events_are_published after insert on holdfast.events referencing new table as added
  for each statement execute function holdfast.note_publishing();

-- More than the log has is to be published, so whoever claims it finds no session. Where nobody publishes any more, nobody
-- would: that position goes at once.
create function holdfast.note_gone() returns trigger language plpgsql as $$
begin
  delete from holdfast.publishing p using holdfast.publishers n, removed r
   where n.seen_at <= now() - interval '1 day' and p.publisher = n.name and p.tenant_id = r.tenant_id and p.session_id = r.id;
  update holdfast.publishing p set last_seq = p.last_seq + 1 from holdfast.publishers n, removed r
   where p.publisher = n.name and p.tenant_id = r.tenant_id and p.session_id = r.id;
  return null;
end $$;
create trigger gone_is_published after delete on holdfast.sessions referencing old table as removed
  for each statement execute function holdfast.note_gone();
