-- Who follows which session just now, and through which process. Nothing of it is worth a write to the log of Postgres: after
-- a crash of the database both tables are empty, and each process that lives says again whom it serves.

create unlogged table holdfast.processes (
  id text primary key,
  -- By the database's clock. Whoever has not said anything until then is dead, and nobody is there through it.
  alive_until timestamptz not null
);

create unlogged table holdfast.presences (
  tenant_id text not null,
  session_id text not null,
  user_id text not null,
  process_id text not null,
  -- Null: gone since `changed_at`, which others may have to find out still.
  state text check (state in ('here', 'away')),
  changed_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, user_id, process_id)
);
create index presences_of_process on holdfast.presences (process_id);
create index presences_changed on holdfast.presences (changed_at);
create index presences_gone on holdfast.presences (changed_at) where state is null;

-- This process lives for so much longer, and these users of its are here, away, or (null) gone. True: it was not known, so it
-- has to say again all that it has said before. What has been dead or gone for a minute is taken away, whoever left it.
create function holdfast.keep_presence(p_process text, p_alive_ms int, p_tenants text[], p_sessions text[],
  p_users text[], p_states text[]) returns boolean language plpgsql as $$
declare
  v_alive_until timestamptz := clock_timestamp() + make_interval(secs => p_alive_ms / 1000.0);
  v_old timestamptz := clock_timestamp() - interval '1 minute';
  v_is_new boolean;
begin
  with dead as (delete from holdfast.processes where id in (select id from holdfast.processes
      where alive_until < v_old and id <> p_process for update skip locked) returning id)
  delete from holdfast.presences p using dead where p.process_id = dead.id;
  delete from holdfast.presences where (tenant_id, session_id, user_id, process_id) in (
    select tenant_id, session_id, user_id, process_id from holdfast.presences where state is null and changed_at < v_old
      order by changed_at limit 1000 for update skip locked);
  update holdfast.processes set alive_until = v_alive_until where id = p_process;
  v_is_new := not found;
  if v_is_new then
    insert into holdfast.processes (id, alive_until) values (p_process, v_alive_until);
  end if;
  insert into holdfast.presences (tenant_id, session_id, user_id, process_id, state)
    select tenant_id, session_id, user_id, p_process, state
      from unnest(p_tenants, p_sessions, p_users, p_states) as c (tenant_id, session_id, user_id, state)
     -- Whose row was taken away meanwhile, as a deleted user's, is gone without one; and who is no member any more, whose
     -- connection has yet to end, has none.
     where case when state is null
       then exists (select from holdfast.presences o where o.tenant_id = c.tenant_id and o.session_id = c.session_id
         and o.user_id = c.user_id and o.process_id = p_process)
       else exists (select from holdfast.members m where m.tenant_id = c.tenant_id and m.session_id = c.session_id
         and m.user_id = c.user_id) end
    on conflict (tenant_id, session_id, user_id, process_id) do update
      set state = excluded.state, changed_at = clock_timestamp();
  return v_is_new;
end $$;

-- Of the members of a session, those who are here or away: here if on one of their devices.
create function holdfast.present_in(p_tenant text, p_session text) returns table (user_id text, state text)
  language sql stable as $$
  select p.user_id, case when bool_or(p.state = 'here') then 'here' else 'away' end
    from holdfast.presences p
    join holdfast.processes o on o.id = p.process_id and o.alive_until > clock_timestamp()
    join holdfast.members m on m.tenant_id = p.tenant_id and m.session_id = p.session_id and m.user_id = p.user_id
   where p.tenant_id = p_tenant and p.session_id = p_session and p.state is not null
   group by p.user_id;
$$;
