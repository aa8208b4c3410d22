-- The outbox: what can wait. Jobs of the app's own, and events of the log for its webhooks, each a row that is written in the
-- transaction of what it is about, and taken by whichever runner looks. Nothing of a conversation waits for these rows: they
-- are inserted with it, and nobody else's row is locked for that.
--
--   due ──take──▶ running ──▶ done | dead
--    ▲              │  └ its process died: the lease runs out, and it is taken again
--    └── backoff ───┘
--
-- Of rows with the same key (in one tenant and topic) one is taken at a time, in the order of `n`: what was committed before
-- another was added is taken before it. Only such a head has a `due_at` for long. What is found behind one is parked
-- (`due_at` null), and whoever ends the head makes the next one due; both hold the key's lock, and decide in a statement
-- after it, so none is forgotten. Whoever adds locks nothing.
create table holdfast.outbox (
  n bigint generated always as identity,
  tenant_id text not null default 'default',
  topic text not null check (topic ~ '^[A-Za-z0-9._:~-]{1,128}$'),
  -- Of the app's choice, or made. The same id is the same row for as long as that is kept.
  id text not null check (length(id) between 1 and 255),
  -- Null: nothing waits for it, and it for nothing.
  key text check (length(key) between 1 and 255),
  payload json not null check (octet_length(payload::text) <= 262144),
  -- Of a webhook's event, which is read when it is sent: this session, and `payload` is its seq.
  session_id text,
  state text not null default 'due' check (state in ('due', 'running', 'done', 'dead')),
  -- `due`: to be taken then; `running`: the end of its lease. Null: parked behind another of its key, or ended.
  due_at timestamptz,
  -- How often it was taken, over its whole life. It is the fence: what a process says of an earlier one touches nothing.
  attempt int not null default 0,
  -- The same since it was added, or somebody sent it again.
  tries int not null default 0,
  error text,
  at timestamptz not null default clock_timestamp(),
  ended_at timestamptz,
  -- When an ended one is removed.
  gone_at timestamptz,
  -- By its number alone it is found, too: that is no other tenant's.
  primary key (n, tenant_id),
  unique (tenant_id, topic, id)
) with (fillfactor = 80);
create index outbox_due on holdfast.outbox (topic, due_at) where due_at is not null;
-- A key's head is the first of one of these two, however many there are: `running` before `due`.
create index outbox_of_key on holdfast.outbox (tenant_id, topic, key, state desc, n) where key is not null and due_at is not null;
create index outbox_parked on holdfast.outbox (tenant_id, topic, key, n) where due_at is null and state = 'due';
create index outbox_dead on holdfast.outbox (n) where state = 'dead';
create index outbox_gone on holdfast.outbox (gone_at) where gone_at is not null;
create index outbox_of_session on holdfast.outbox (tenant_id, session_id) where session_id is not null;

-- Which events the webhooks of this database want. Where they lead and what they are signed with is known to the processes
-- alone. `seen_at` is renewed while one has it: a day after the last one nothing is written for it any more.
create table holdfast.webhooks (
  name text primary key,
  -- Null: all.
  events text[],
  seen_at timestamptz not null default clock_timestamp(),
  disabled_at timestamptz,
  disabled_why text
);

-- With the events themselves, whoever writes them. Where no webhook is set that is one look into a table of no rows.
create function holdfast.note_webhooks() returns trigger language plpgsql as $$
begin
  if not exists (select from holdfast.webhooks where seen_at > now() - interval '1 day' and disabled_at is null) then
    return null;
  end if;
  insert into holdfast.outbox (tenant_id, topic, id, key, payload, session_id, due_at)
    select e.tenant_id, 'webhook:' || w.name, 'evt_' || replace(gen_random_uuid()::text, '-', ''), e.session_id,
        to_json(e.seq), e.session_id, clock_timestamp()
      from added e join holdfast.webhooks w on w.seen_at > now() - interval '1 day' and w.disabled_at is null
       and (w.events is null or e.type = any(w.events))
     order by e.tenant_id, e.session_id, e.seq;
  return null;
end $$;
create trigger events_to_webhooks after insert on holdfast.events referencing new table as added
  for each statement execute function holdfast.note_webhooks();

-- A session that is gone leaves nothing behind. Where there are no such rows that is one look.
create function holdfast.forget_webhooks() returns trigger language plpgsql as $$
begin
  delete from holdfast.outbox o using removed r where o.tenant_id = r.tenant_id and o.session_id = r.id;
  return null;
end $$;
create trigger gone_from_outbox after delete on holdfast.sessions referencing old table as removed
  for each statement execute function holdfast.forget_webhooks();

-- For the app, in whatever language and transaction: rolled back with it, committed with it. Answers the id. The same id with
-- the same payload adds nothing; with another it is an error. Tells runners when it is committed.
create function holdfast.outbox_add(p_topic text, p_payload json, p_key text default null, p_id text default null,
  p_delay_ms bigint default 0, p_tenant text default 'default') returns text language plpgsql as $$
declare v_id text := coalesce(p_id, gen_random_uuid()::text); r holdfast.outbox; v_same boolean;
begin
  if p_topic like 'webhook:%' then
    raise exception 'holdfast.outbox_add: topics that begin with webhook: are Holdfast''s own' using errcode = 'invalid_parameter_value';
  end if;
  insert into holdfast.outbox (tenant_id, topic, id, key, payload, due_at)
    values (p_tenant, p_topic, v_id, p_key, p_payload, clock_timestamp() + make_interval(secs => greatest(0, p_delay_ms) / 1000.0))
    on conflict (tenant_id, topic, id) do nothing;
  if found then
    perform pg_notify('holdfast', 'outbox');
    return v_id;
  end if;
  select * into r from holdfast.outbox where tenant_id = p_tenant and topic = p_topic and id = v_id;
  v_same := r.key is not distinct from p_key;
  if r.payload::text <> p_payload::text then
    begin
      v_same := v_same and r.payload::jsonb = p_payload::jsonb;
    exception when data_exception then
      -- With NUL, half a character or an extreme number in it: compared as its text alone.
      v_same := false;
    end;
  end if;
  if r.n is not null and not v_same then
    raise exception 'holdfast.outbox_add: the id % was used in % for another payload or key', v_id, p_topic
      using errcode = 'unique_violation';
  end if;
  return v_id;
end $$;

create function holdfast.outbox_key(p_tenant text, p_topic text, p_key text) returns bigint language sql immutable
  parallel safe as $$ select hashtextextended(p_tenant || chr(10) || p_topic || chr(10) || p_key, 16) $$;

-- Of a key: what runs, or is to be done next. Null: nothing. Of what ended `due_at` is null.
create function holdfast.outbox_head(p_tenant text, p_topic text, p_key text) returns holdfast.outbox language sql stable as $$
  select h from (
    (select o from holdfast.outbox o where tenant_id = p_tenant and topic = p_topic and key = p_key and due_at is not null
      order by state desc, n limit 1)
    union all
    (select o from holdfast.outbox o where tenant_id = p_tenant and topic = p_topic and key = p_key and due_at is null
      and state = 'due' order by n limit 1)) x(h)
  order by (h).state desc, (h).n limit 1
$$;

-- Takes what is due in these topics, of each as many as it may at most, what has waited longest first: `running`, under a lease,
-- for who asks. Waits for nobody. Topics that are not named cost nothing, however much waits in them. Answers {taken, more}: `more`
-- is due than it has looked at, because each key that it looks at stays locked until it ends, and there is room for so many.
create function holdfast.take_outbox(p_topics text[], p_limits int[], p_lease_ms int) returns json language plpgsql as $$
declare t record; c record; r holdfast.outbox; v_left int; v_changed boolean; v_looks int; v_more boolean := false;
  v_taken json[] := '{}';
begin
  for t in select x.topic, x.most from unnest(p_topics, p_limits) x(topic, most) loop
    v_left := t.most;
    v_changed := true;
    v_looks := 20;
    -- Parked ones make room for those behind them.
    while v_left > 0 and v_changed loop
      v_looks := v_looks - 1;
      v_more := v_more or v_looks < 0;
      exit when v_looks < 0;
      v_changed := false;
      for c in
        select o.n, o.tenant_id, o.key from holdfast.outbox o
         where o.topic = t.topic and o.due_at <= clock_timestamp() order by o.due_at limit t.most
         -- Those that another process is taking at this moment are passed over, and it has what comes behind them.
           for no key update skip locked
      loop
        exit when v_left = 0;
        if c.key is null then
          select * into r from holdfast.outbox where n = c.n;
        else
          continue when not pg_try_advisory_xact_lock(holdfast.outbox_key(c.tenant_id, t.topic, c.key));
          r := holdfast.outbox_head(c.tenant_id, t.topic, c.key);
          continue when r.n is null;
          update holdfast.outbox set due_at = null where n in (
            select n from holdfast.outbox
             where tenant_id = c.tenant_id and topic = t.topic and key = c.key and state = 'due' and n <> r.n
               and due_at <= clock_timestamp()
             order by n limit 1000 for no key update skip locked);
          v_changed := v_changed or found;
          continue when r.due_at > clock_timestamp();
          -- Not with the look above: where somebody renews the head, that would skip it and find the one behind.
          perform 1 from holdfast.outbox where n = r.n for no key update skip locked;
          continue when not found;
        end if;
        update holdfast.outbox set state = 'running', attempt = attempt + 1, tries = tries + 1,
            due_at = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)
          where n = r.n and state = r.state and (due_at is null or due_at <= clock_timestamp()) returning * into r;
        continue when not found;
        v_left := v_left - 1;
        v_changed := true;
        v_taken := v_taken || json_build_object('n', r.n, 'tenantId', r.tenant_id, 'topic', r.topic, 'id', r.id, 'key', r.key,
          'payload', r.payload, 'sessionId', r.session_id, 'attempt', r.attempt, 'tries', r.tries);
      end loop;
    end loop;
  end loop;
  return json_build_object('taken', to_json(v_taken), 'more', v_more);
end $$;

-- What became of it: `done`, `dead`, or `due` again after so long. `p_untried`: it was not tried, and this try does not count.
-- False: it is not held any more, and nothing was changed. The next of its key is made due.
create function holdfast.end_outbox(p_n bigint, p_attempt int, p_state text, p_after_ms bigint, p_error text, p_untried boolean)
  returns boolean language plpgsql as $$
declare r holdfast.outbox; v_kept interval;
begin
  select * into r from holdfast.outbox where n = p_n;
  if not found then return false; end if;
  if r.key is not null then
    perform pg_advisory_xact_lock(holdfast.outbox_key(r.tenant_id, r.topic, r.key));
  end if;
  -- Of the app's own the ids are kept for longer: they keep it from being added twice.
  v_kept := case when p_state = 'dead' then interval '30 days' when r.session_id is null then interval '7 days'
    else interval '1 day' end;
  update holdfast.outbox set state = p_state, error = p_error, tries = tries - p_untried::int,
      due_at = case when p_state = 'due' then clock_timestamp() + make_interval(secs => p_after_ms / 1000.0) end,
      ended_at = case when p_state <> 'due' then clock_timestamp() end,
      gone_at = case when p_state <> 'due' then clock_timestamp() + v_kept end
    where n = p_n and attempt = p_attempt and state = 'running';
  if not found then return false; end if;
  if r.key is not null then perform holdfast.outbox_next(r.tenant_id, r.topic, r.key); end if;
  return true;
end $$;

-- Under the key's lock: its head is parked no more.
create function holdfast.outbox_next(p_tenant text, p_topic text, p_key text) returns void language plpgsql as $$
begin
  update holdfast.outbox set due_at = clock_timestamp()
   where due_at is null and n = (holdfast.outbox_head(p_tenant, p_topic, p_key)).n;
end $$;

-- Where somebody has removed or changed a row by hand, those that were parked behind it wait for nobody: their head is made
-- due. Looks at so many keys after this one ([tenant, topic, key]). Answers {repaired, next}: from where to go on, or null.
create function holdfast.repair_outbox(p_after text[], p_keys int) returns json language plpgsql as $$
declare k record; v_after text[] := p_after; v_repaired int := 0;
begin
  for i in 1..p_keys loop
    select tenant_id, topic, key into k from holdfast.outbox
      where due_at is null and state = 'due' and (tenant_id, topic, key) > (v_after[1], v_after[2], v_after[3])
      order by tenant_id, topic, key limit 1;
    if not found then
      return json_build_object('repaired', v_repaired, 'next', null);
    end if;
    v_after := array[k.tenant_id, k.topic, k.key];
    if (holdfast.outbox_head(k.tenant_id, k.topic, k.key)).due_at is null
        -- Whoever has it makes the next one due.
        and pg_try_advisory_xact_lock(holdfast.outbox_key(k.tenant_id, k.topic, k.key)) then
      perform holdfast.outbox_next(k.tenant_id, k.topic, k.key);
      v_repaired := v_repaired + 1;
    end if;
  end loop;
  return json_build_object('repaired', v_repaired, 'next', v_after);
end $$;

-- A dead letter is due again, before all that waits of its key. Answers whether it was one.
create function holdfast.retry_outbox(p_n bigint) returns boolean language plpgsql as $$
begin
  update holdfast.outbox set state = 'due', tries = 0, due_at = clock_timestamp(), ended_at = null, gone_at = null
    where n = p_n and state = 'dead';
  if not found then return false; end if;
  perform pg_notify('holdfast', 'outbox');
  return true;
end $$;
