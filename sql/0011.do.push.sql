-- Push: a notice on the devices of who has not read what came. What is due is written with what it is about, in the same
-- transaction, so it is sent whichever process has died since. Whether it is sent is decided when its time has come, in the
-- statement that takes it for sending, and by receipts alone. These rows are locked last of all.

-- What the processes of this database were last told to do, by whichever started last. Null: none of them has ever pushed.
-- `push_seen_at`: one that sends was there; `push_app_seen_at`: one whose app keeps tokens, so that who has devices is only known by
-- asking it. A day after the last one nothing is written any more.
alter table holdfast.meta add column push_grace_ms int, add column push_seen_at timestamptz,
  add column push_app_seen_at timestamptz;

create table holdfast.devices (
  tenant_id text not null,
  user_id text not null,
  -- Of the device's own choice, or ours: no other user's ids matter to it.
  id text not null,
  kind text not null check (kind in ('expo', 'web')),
  -- {token}, or {endpoint, keys}. Never answered, and never logged.
  address jsonb not null,
  -- Of the kind and the token or endpoint: what the device is, whoever uses it.
  address_hash text not null,
  locale text,
  registered_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, user_id, id)
);
-- Over all tenants: who signs in elsewhere on a device is not told what was for who used it before.
create unique index devices_by_address on holdfast.devices (address_hash);

-- A notice that is to stand, stands, or was withheld. One for each turn (or event of the app's) and device: a later event of
-- the same turn takes the row, and the notice takes the other's place, because both carry the same collapse id.
create table holdfast.pushes (
  tenant_id text not null,
  session_id text not null,
  -- The turn's id, or for the app's own event its seq.
  about text not null,
  -- `address_hash`; 'app' before the app was asked which devices the user has.
  device text not null,
  user_id text not null,
  turn_id uuid,
  event text not null,
  -- Of the event. It is the fence, too: what is known of the notice before says nothing of this one.
  seq int not null,
  -- Of the app's own event.
  data json,
  -- Of a device that the app keeps: {kind, token | subscription, locale?}. Null: it is in `devices`.
  target jsonb,
  -- due → sending → sent | due (to be tried again) | failed | gone (no such device) | unknown (who sent it has died, or was
  -- not answered); due → withheld.
  state text not null default 'due'
    check (state in ('due', 'sending', 'sent', 'withheld', 'failed', 'gone', 'unknown')),
  tries int not null default 0,
  -- What the service calls it, until it was asked what became of it.
  ticket text,
  taken_at timestamptz,
  at timestamptz not null default clock_timestamp(),
  -- When somebody has to look at it again: `due` it is sent, `sending` it is given up, with a ticket it is asked about,
  -- else it is deleted.
  due_at timestamptz not null,
  primary key (tenant_id, session_id, about, device),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
) with (fillfactor = 70);
create index pushes_due on holdfast.pushes (state, due_at);

-- A device is registered, again or anew: it is this user's from now on, and nobody else's. One more than `p_max` takes the
-- place of the one that was registered longest ago. Answers its row.
create function holdfast.register_device(p_tenant text, p_user text, p_id text, p_kind text, p_address jsonb, p_hash text,
  p_locale text, p_max int) returns holdfast.devices language plpgsql as $$
declare d holdfast.devices;
begin
  -- One at a time for a device: two that move it would each find it with a third.
  perform pg_advisory_xact_lock(hashtextextended(p_hash, 0));
  select * into d from holdfast.devices where address_hash = p_hash and tenant_id = p_tenant and user_id = p_user;
  p_id := coalesce(p_id, d.id, gen_random_uuid()::text);
  delete from holdfast.devices where address_hash = p_hash;
  -- Its token was changed.
  insert into holdfast.devices (tenant_id, user_id, id, kind, address, address_hash, locale)
    values (p_tenant, p_user, p_id, p_kind, p_address, p_hash, p_locale)
    on conflict (tenant_id, user_id, id) do update set kind = excluded.kind, address = excluded.address,
      address_hash = excluded.address_hash, locale = excluded.locale, registered_at = clock_timestamp()
    returning * into d;
  delete from holdfast.devices where (tenant_id, user_id, id) in (
    select tenant_id, user_id, id from holdfast.devices where tenant_id = p_tenant and user_id = p_user
     order by registered_at desc, id offset p_max);
  return d;
end $$;

-- Notices of an event for the devices of these members, as far as they may see it and have not muted the session. Called
-- with the session locked, in the transaction that wrote the event. Where nobody pushes that is one row read; where the
-- members have no devices, one look for each.
create function holdfast.push_due(p_tenant text, p_session text, p_about text, p_turn uuid, p_event text, p_seq int,
  p_audience text, p_data json) returns void language plpgsql as $$
declare v_grace int; v_asks boolean;
begin
  select push_grace_ms, coalesce(push_app_seen_at > now() - interval '1 day', false) into v_grace, v_asks
    from holdfast.meta where only_row and push_seen_at > now() - interval '1 day';
  if v_grace is null then return; end if;
  insert into holdfast.pushes (tenant_id, session_id, about, device, user_id, turn_id, event, seq, data, due_at)
    select p_tenant, p_session, p_about, d.device, m.user_id, p_turn, p_event, p_seq, p_data,
        clock_timestamp() + make_interval(secs => v_grace / 1000.0)
      from holdfast.members m
      cross join lateral (
        select o.address_hash as device from holdfast.devices o where o.tenant_id = p_tenant and o.user_id = m.user_id
        union all
        select 'app:' || m.user_id where v_asks) d
     where m.tenant_id = p_tenant and m.session_id = p_session and not m.muted and holdfast.may_see(p_audience, m.user_id)
     -- As others of these lock them.
     order by d.device
    on conflict (tenant_id, session_id, about, device) do update set user_id = excluded.user_id, event = excluded.event,
      seq = excluded.seq, target = null, state = 'due', tries = 0, ticket = null, taken_at = null, at = excluded.at,
      due_at = excluded.due_at;
end $$;

-- An event of the app's for one user: in the log, for who follows it just now and who comes back, and a notice, should they not
-- have read it when its time has come. Outcomes: those of `publish`, and not_member.
create function holdfast.notify(p_tenant text, p_session text, p_user text, p_type text, p_data json, p_id text,
  p_hash text) returns json language plpgsql as $$
declare v_answer json; v_seq int;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if found and not exists (select from holdfast.members
      where tenant_id = p_tenant and session_id = p_session and user_id = p_user) then
    return json_build_object('outcome', 'not_member');
  end if;
  v_answer := holdfast.publish(p_tenant, p_session, p_type, 'user:' || p_user, p_data, p_id, p_hash);
  if v_answer ->> 'outcome' = 'published' then
    v_seq := (v_answer -> 'event' ->> 'seq')::int;
    perform holdfast.push_due(p_tenant, p_session, v_seq::text, null, p_type, v_seq, 'user:' || p_user, p_data);
  end if;
  return v_answer;
end $$;

-- As the process that sends is told it.
create function holdfast.device_json(d holdfast.devices) returns jsonb language sql immutable parallel safe as $$
  select case when d.id is not null then jsonb_strip_nulls(jsonb_build_object('kind', d.kind, 'locale', d.locale))
    || case d.kind when 'expo' then d.address else jsonb_build_object('subscription', d.address) end end
$$;

-- The turn is still as this event left it: nobody has retried or answered it since.
create function holdfast.still_stands(p_event text, p_turn_state text) returns boolean language sql immutable parallel safe
  as $$
  select case p_event when 'message.ai_response' then p_turn_state = 'complete' when 'message.error' then p_turn_state = 'failed'
    when 'turn.waiting' then p_turn_state = 'waiting' else false end
$$;

-- Takes notices whose time has come, in that order: `sending`, to be sent by who asks; withheld, where a receipt of their user
-- covers the event, or they may not see it any more, or the turn went on, or the device is another's by now; and those
-- about which the app has to be asked, which stay due a little later, should nobody come back from asking. All is judged
-- here, in one statement, and nowhere else: a receipt that was answered before it is seen by it.
-- Who cannot ask the app (`p_asks_app`) leaves those to others. `isStale`: the app said so some time ago that its user has this
-- device, and has to be asked whether that is so still.
create function holdfast.take_pushes(p_limit int, p_sending_ms int, p_asks_app boolean) returns setof json language sql as $$
  with due as materialized (
    select p.* from holdfast.pushes p
     where p.state = 'due' and p.due_at <= now() and (p_asks_app or p.device <> 'app:' || p.user_id)
     order by p.due_at limit p_limit for update skip locked),
  judged as (
    select due.tenant_id, due.session_id, due.about, due.device, holdfast.device_json(d) as own, t.reply_id,
        due.target is not null and d.id is null and (due.tries > 0 or due.due_at < now() - interval '1 minute') as stale,
        case when m.user_id is null or m.muted or m.read_seq >= due.seq or not holdfast.may_see(e.audience, due.user_id)
              or due.turn_id is not null and not coalesce(holdfast.still_stands(due.event, t.state), false)
            then 'withheld'
          -- Nobody wants to hear of it so much later.
          when due.at < now() - interval '1 day' then case when due.tries > 0 then 'failed' else 'withheld' end
          when due.device = 'app:' || due.user_id then 'due'
          -- Taken away; or whoever signed in there since is not told what was for who used it before.
          when d.id is null and (due.target is null or exists (
              select from holdfast.devices o where o.address_hash = due.device)) then 'gone'
          else 'sending' end as state
      from due
      left join holdfast.members m on m.tenant_id = due.tenant_id and m.session_id = due.session_id
        and m.user_id = due.user_id
      left join holdfast.events e on e.tenant_id = due.tenant_id and e.session_id = due.session_id and e.seq = due.seq
      left join holdfast.turns t on t.tenant_id = due.tenant_id and t.id = due.turn_id
      left join holdfast.devices d on d.address_hash = due.device and d.tenant_id = due.tenant_id
        and d.user_id = due.user_id
     -- Written while this was waiting for its row: what it is about is not to be seen yet, and is by the next that looks.
     where e.seq is not null or due.at < now() - interval '1 minute'),
  taken as (
    update holdfast.pushes p set state = j.state, tries = p.tries + 1, taken_at = now(),
        due_at = now() + case when j.state in ('sending', 'due') then make_interval(secs => p_sending_ms / 1000.0)
          else interval '2 days' end
      from judged j where p.tenant_id = j.tenant_id and p.session_id = j.session_id and p.about = j.about
        and p.device = j.device
      returning p.*, j.own, j.reply_id, j.stale)
  select json_build_object('tenantId', tenant_id, 'sessionId', session_id, 'about', about, 'device', device,
      'userId', user_id, 'turnId', turn_id, 'messageId', reply_id, 'event', event, 'seq', seq, 'data', data, 'tries', tries,
      'state', state, 'target', coalesce(target, own), 'isStale', stale)
    from taken
$$;

-- The app has said which devices its user has: each gets a notice of its own, due now, and judged again when it is taken.
create function holdfast.spread_push(p_tenant text, p_session text, p_about text, p_device text, p_seq int, p_devices json)
  returns void language plpgsql as $$
declare p holdfast.pushes;
begin
  -- Sessions before notices: what is inserted refers to it, and its deletion takes these rows.
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for key share;
  delete from holdfast.pushes where tenant_id = p_tenant and session_id = p_session and about = p_about
    and device = p_device and seq = p_seq and state = 'due' returning * into p;
  if not found then return; end if;
  insert into holdfast.pushes (tenant_id, session_id, about, device, user_id, turn_id, event, seq, data, target, at, due_at)
    select p.tenant_id, p.session_id, p.about, x.device, p.user_id, p.turn_id, p.event, p.seq, p.data, x.target, p.at, now()
      from json_to_recordset(p_devices) x(device text, target jsonb) order by x.device
    on conflict (tenant_id, session_id, about, device) do update set user_id = excluded.user_id, event = excluded.event,
      seq = excluded.seq, target = excluded.target, state = 'due', tries = 0, ticket = null, taken_at = null,
      at = excluded.at, due_at = excluded.due_at
      -- Registered here, too: it has its own of this event.
      where pushes.seq < excluded.seq;
end $$;

-- What became of notices that were taken: [{tenantId, sessionId, about, device, seq, tries, state, afterMs, ticket}]. Only of the
-- event and the try that it was: a fact stays one also where it had been given up as unknown. A device that the service does
-- not know is removed, unless it was registered again since. Waits for nobody, since others lock notices of many sessions one
-- after another: answers the places, from 0, of those that somebody holds, to be marked again.
create function holdfast.mark_pushes(p_marks json) returns int[] language sql as $$
  with marks as materialized (
    select k.value ->> 'tenantId' as tenant_id, k.value ->> 'sessionId' as session_id, k.value ->> 'about' as about,
        k.value ->> 'device' as device, (k.value ->> 'seq')::int as seq, (k.value ->> 'tries')::int as tries,
        k.value ->> 'state' as state, (k.value ->> 'afterMs')::bigint as after_ms, k.value ->> 'ticket' as ticket,
        k.ordinality::int - 1 as place
      from json_array_elements(p_marks) with ordinality k),
  held as materialized (
    select p.tenant_id, p.session_id, p.about, p.device, p.taken_at, k.state, k.ticket, k.after_ms, k.place
      from holdfast.pushes p
      join marks k using (tenant_id, session_id, about, device)
     where p.seq = k.seq and p.tries = k.tries and p.state in ('sending', 'sent', 'unknown')
     for update of p skip locked),
  marked as (
    update holdfast.pushes p set state = h.state, ticket = h.ticket,
        due_at = now() + make_interval(secs => h.after_ms / 1000.0)
      from held h where p.tenant_id = h.tenant_id and p.session_id = h.session_id and p.about = h.about
        and p.device = h.device),
  gone as materialized (
    select d.tenant_id, d.user_id, d.id from holdfast.devices d
      join held h on h.state = 'gone' and d.address_hash = h.device and d.registered_at <= h.taken_at
      -- Who holds it removes it or registers it; else its next notice does.
      for update of d skip locked),
  removed as (
    delete from holdfast.devices d using gone g
     where d.tenant_id = g.tenant_id and d.user_id = g.user_id and d.id = g.id)
  select coalesce(array_agg(k.place), '{}')
    from marks k join holdfast.pushes p using (tenant_id, session_id, about, device)
   where p.seq = k.seq and p.tries = k.tries and p.state in ('sending', 'sent', 'unknown')
     and k.place not in (select place from held)
$$;

-- Tickets whose receipts are to be asked for. Nobody else asks meanwhile.
create function holdfast.take_tickets(p_limit int, p_asking_ms int) returns setof json language sql as $$
  with due as materialized (
    select p.tenant_id, p.session_id, p.about, p.device from holdfast.pushes p
     where p.state = 'sent' and p.due_at <= now() and p.ticket is not null order by p.due_at limit p_limit
      for update skip locked),
  asked as (
    update holdfast.pushes p set due_at = now() + make_interval(secs => p_asking_ms / 1000.0)
      from due where p.tenant_id = due.tenant_id and p.session_id = due.session_id and p.about = due.about
        and p.device = due.device
      returning p.*)
  select json_build_object('tenantId', a.tenant_id, 'sessionId', a.session_id, 'about', a.about, 'device', a.device,
      'userId', a.user_id, 'seq', a.seq, 'tries', a.tries, 'ticket', a.ticket,
      'target', coalesce(a.target, holdfast.device_json(d)), 'isOld', a.taken_at < now() - interval '1 day')
    from asked a left join holdfast.devices d on d.address_hash = a.device
$$;

-- Whoever was sending these has died, or does not come back: nobody knows whether they were sent. They are not sent again, or
-- (`p_resend`) at once, in the place of the first one. Answers how many.
create function holdfast.give_up_pushes(p_limit int, p_resend boolean) returns int language sql as $$
  with lost as materialized (
    select tenant_id, session_id, about, device from holdfast.pushes
     where state = 'sending' and due_at <= now() order by due_at limit p_limit for update skip locked),
  given_up as (
    update holdfast.pushes p set state = case when p_resend then 'due' else 'unknown' end,
        due_at = case when p_resend then now() else now() + interval '2 days' end
      from lost where p.tenant_id = lost.tenant_id and p.session_id = lost.session_id and p.about = lost.about
        and p.device = lost.device
      returning 1)
  select count(*)::int from given_up
$$;

-- Rows of which nothing is to be done any more, and those that were due when nobody pushed. For the sweeper.
create function holdfast.sweep_pushes(p_limit int) returns int language sql as $$
  with old as materialized (
    select tenant_id, session_id, about, device from holdfast.pushes
     where due_at <= now() and state in ('withheld', 'failed', 'gone', 'unknown')
       or due_at <= now() and state = 'sent' and ticket is null
       or due_at <= now() - interval '2 days' and state in ('due', 'sending', 'sent')
     limit p_limit for update skip locked),
  swept as (
    delete from holdfast.pushes p using old where p.tenant_id = old.tenant_id and p.session_id = old.session_id
      and p.about = old.about and p.device = old.device
      returning 1)
  select count(*)::int from swept
$$;
