-- Conversations that come in from elsewhere, change hands, and go: import, a guest who signs in, the deletion of a user, and
-- what is older than the app wants to keep. The rules of 0001 hold: the session's lock first, decided in a later statement,
-- one call each.
--
-- What concerns many sessions is done session by session, each in a transaction of its own, so that no session's people wait
-- for more than theirs. What says that it was begun is stored first, and any process goes on with it: so it is done once
-- begun, whoever dies.

-- ---------------------------------------------------------------------------------------------------------------
-- Import. Such messages stand before all that was said here, in the order of their times, whatever the order in which they
-- came: their positions are below zero, and are given anew with each that comes. No step of theirs was paid for here, so the
-- ledger has nothing of them.

-- How many rows a user has imported on this day (UTC) that were new.
alter table holdfast.limits add column imported int not null default 0, add column imported_on date;

create function holdfast.utc_day() returns date language sql stable as $$
  select (clock_timestamp() at time zone 'utc')::date
$$;

-- Of an imported message: what it was, so that the same one again is known. Null on all others.
alter table holdfast.messages add column import_hash text;

-- A reply to what was said here is the server's to give, and nobody else's.
create function holdfast.is_no_import(p_tenant text, p_session text, p_replies_to text) returns boolean language sql stable as $$
  select coalesce((select u.role <> 'user' or u.import_hash is null from holdfast.messages u
    where u.tenant_id = p_tenant and u.session_id = p_session and u.id = p_replies_to), false)
$$;

-- The end of what was imported; '' where nothing was.
create function holdfast.import_tip(p_tenant text, p_session text) returns text language sql stable as $$
  select coalesce((select id from holdfast.messages where tenant_id = p_tenant and session_id = p_session and position < 0
    and import_hash is not null and not withdrawn order by position desc, role, created_at desc, id desc limit 1), '')
$$;

-- Gives what was imported its order. `p_tip`: where it ended before. Expects the session's row to be locked by the caller. One
-- look at the session's rows, and then those that change by their keys: joined with themselves a thousand took a minute, where
-- the planner knew little of the table.
create function holdfast.arrange_imported(p_tenant text, p_session text, p_user text, p_tip text) returns text
  language plpgsql as $$
declare r record; v_tip text; v_turn uuid; v_taken text[]; m holdfast.messages; v_chosen boolean;
  v_is_simple boolean;
begin
  -- Messages of which another reply, given here, is the chosen one: that stays its reader's choice.
  v_taken := array(select parent from holdfast.messages where tenant_id = p_tenant and session_id = p_session
    and import_hash is null and role = 'assistant' and round > 1 and chosen);
  -- Where nobody has chosen anything, what is chosen here is what is shown.
  v_is_simple := v_taken = '{}' and not exists (select from holdfast.messages where tenant_id = p_tenant
    and session_id = p_session and import_hash is not null and role = 'user' and not chosen);
  -- A message and its replies are a pair; in each the last reply is shown. The row before a message's is where it goes on from.
  for r in
    select id, role, turn_id, position, parent, chosen, shown, withdrawn, has_new, replies, last_reply,
        (dense_rank() over (order by said_at, of_user))::int - 1000000000 as place,
        coalesce(lag(id) over (order by said_at, of_user, role desc, created_at, of_id), '') as before
      from (
        select id, id as of_id, role, turn_id, position, parent, chosen, shown, withdrawn, created_at, coalesce(replies_to, id) as of_user,
            max(created_at) filter (where role = 'user') over pair as said_at,
            bool_or(withdrawn and role = 'assistant') over pair as has_new,
            count(*) filter (where role = 'assistant') over pair as replies,
            first_value(id) over (partition by coalesce(replies_to, id) order by role, created_at desc, id desc) as last_reply
          from holdfast.messages
         where tenant_id = p_tenant and session_id = p_session and import_hash is not null
        window pair as (partition by coalesce(replies_to, id))) x
     -- A reply whose message is not there yet is kept, and shown to nobody.
     where said_at is not null
     order by said_at, of_user, role desc, created_at, of_id
  loop
    if r.role = 'user' then
      v_turn := r.turn_id;
      -- By its turn a message is edited and answered anew. A first reply makes one.
      if v_turn is null and r.replies > 0 then
        v_turn := gen_random_uuid();
        insert into holdfast.turns (tenant_id, id, session_id, message_id, reply_id, user_id, position, state)
          values (p_tenant, v_turn, p_session, r.id, r.last_reply, p_user, r.place, 'complete');
      elsif v_turn is not null and (r.has_new or r.position <> r.place) then
        update holdfast.turns set position = r.place, reply_id = r.last_reply
         where tenant_id = p_tenant and id = v_turn and position < 0;
      end if;
    end if;
    -- Whether another text of it is shown is its reader's choice, too.
    v_chosen := case r.role when 'user' then r.chosen else r.id = r.last_reply and r.parent <> all(v_taken) end;
    if r.withdrawn or (r.position, r.parent, r.chosen, r.shown, r.turn_id) is distinct from
        (r.place, case r.role when 'user' then r.before else r.parent end, v_chosen,
          case when v_is_simple then v_chosen else r.shown end, v_turn) then
      update holdfast.messages set position = r.place, chosen = v_chosen, withdrawn = false, turn_id = v_turn,
          shown = case when v_is_simple then v_chosen else shown end,
          parent = case r.role when 'user' then r.before else r.parent end
       where tenant_id = p_tenant and session_id = p_session and id = r.id;
    end if;
    if r.id = r.last_reply and r.role = 'assistant' and r.has_new and (r.replies > 1 or r.parent = any(v_taken)) then
      select * into m from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = r.id;
      perform holdfast.number_alternatives(m);
    end if;
  end loop;

  -- What was said here goes on from it. Another text of an imported message stays beside that one.
  v_tip := holdfast.import_tip(p_tenant, p_session);
  update holdfast.messages l set parent = v_tip
   where l.tenant_id = p_tenant and l.session_id = p_session and l.lane = 'main' and l.import_hash is null
     and l.parent in ('', p_tip) and l.parent <> v_tip and l.role = case when l.parent = '' then l.role else 'user' end
     and not exists (
       with recursive up as (
         select l.edit_of as id
         union
         select e.edit_of from up join holdfast.messages e on e.tenant_id = p_tenant and e.session_id = p_session and e.id = up.id)
       select from up join holdfast.messages i on i.tenant_id = p_tenant and i.session_id = p_session and i.id = up.id
        where i.import_hash is not null);
  loop
    update holdfast.messages e set parent = o.parent from holdfast.messages o
     where e.tenant_id = p_tenant and e.session_id = p_session and e.edit_of is not null and e.import_hash is null
       and not e.withdrawn
       and o.tenant_id = p_tenant and o.session_id = p_session and o.id = e.edit_of and o.lane = 'main'
       and o.parent <> e.parent;
    exit when not found;
  end loop;
  if v_is_simple then
    perform holdfast.renew_preview(p_tenant, p_session, null);
  else
    perform holdfast.show_lane(p_tenant, p_session, 'main');
  end if;
  return v_tip;
end $$;

-- Rows of one session: `p_session_row` is {title, metadata, createdAt} or null, `p_rows` are [{line, id, role, parts, metadata,
-- createdAt, repliesTo, model, hash}]. Outcomes: imported (how many were `new`, `known` and `waiting` for the message that they
-- reply to, and which lines were not taken, with why); foreign (the session is somebody else's, or was deleted); full; spent (no
-- more is taken of them on this day; null `p_day_max`: any number); erased (they were deleted since `p_since`, when the same
-- request asked first).
create function holdfast.import_rows(p_tenant text, p_user text, p_session text, p_session_row json, p_rows json,
  p_messages_max int, p_day_max int, p_since timestamptz) returns json language plpgsql as $$
declare v_at timestamptz := coalesce(p_since, clock_timestamp()); s holdfast.sessions; m holdfast.members;
  v_made boolean := false; v_seq int; v_tip text; v_before int; v_after int; v_added int;
  v_new text[]; v_bad json; v_known int; v_waiting int; v_changed boolean := false; v_seqs int[] := '{}';
begin
  perform pg_advisory_xact_lock_shared(holdfast.guest_key(p_tenant, p_user));
  if exists (select from holdfast.erased where tenant_id = p_tenant and user_hash = holdfast.user_hash(p_user)
      and at >= v_at) then
    return json_build_object('outcome', 'erased');
  end if;
  if exists (select from holdfast.limits where tenant_id = p_tenant and user_id = p_user and imported >= p_day_max
      and imported_on = holdfast.utc_day()) then
    return json_build_object('outcome', 'spent', 'freeInMs', (holdfast.used_up_json('{"every": "day"}', 0) -> 'freeInMs'));
  end if;
  if not exists (select from holdfast.sessions where tenant_id = p_tenant and id = p_session) then
    v_made := holdfast.create_session(p_tenant, p_session, p_user, null, '{}') ->> 'outcome' = 'created';
  end if;
  select * into s from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  select * into m from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if m.role is distinct from 'owner' then return json_build_object('outcome', 'foreign'); end if;
  if (select count(*) from holdfast.messages where tenant_id = p_tenant and session_id = p_session and import_hash is not null)
      + json_array_length(p_rows) > p_messages_max then
    return json_build_object('outcome', 'full');
  end if;

  update holdfast.sessions set title = coalesce(title, p_session_row ->> 'title'),
      metadata = case when metadata = '{}' then coalesce(nullif((p_session_row -> 'metadata')::jsonb, 'null'), '{}') else metadata end
   where tenant_id = p_tenant and id = p_session
     and (title is null and p_session_row ->> 'title' is not null
       or metadata = '{}' and coalesce(nullif((p_session_row -> 'metadata')::jsonb, 'null'), '{}') <> '{}');
  v_changed := found;
  update holdfast.sessions set created_at = least(created_at, (p_session_row ->> 'createdAt')::timestamptz, (
      select min((r ->> 'createdAt')::timestamptz) from json_array_elements(p_rows) r))
   where tenant_id = p_tenant and id = p_session returning next_seq into v_seq;

  v_tip := holdfast.import_tip(p_tenant, p_session);
  select count(*) into v_before from holdfast.messages where tenant_id = p_tenant and session_id = p_session
    and import_hash is not null and not withdrawn;
  with added as (
    insert into holdfast.messages (tenant_id, session_id, id, seq, position, role, author, parts, metadata, status, replies_to,
        parent, withdrawn, shown, round, model, import_hash, created_at, updated_at)
      select distinct on (r.id) p_tenant, p_session, r.id, v_seq, -1, r.role, case r.role when 'user' then p_user end, r.parts,
          r.metadata, 'complete', r."repliesTo", coalesce(r."repliesTo", ''), r.role = 'assistant', false,
          case r.role when 'assistant' then 1 end, r.model, r.hash, r."createdAt", r."createdAt"
        from json_to_recordset(p_rows) r(line int, id text, role text, parts jsonb, metadata jsonb, "createdAt" timestamptz,
          "repliesTo" text, model text, hash text)
       where not holdfast.is_no_import(p_tenant, p_session, r."repliesTo")
       order by r.id, r.line
      on conflict do nothing returning id)
  select coalesce(array_agg(id), '{}') into v_new from added;
  -- A planner that takes the table for empty reads the whole session for each message: most of what is there came just now.
  if cardinality(v_new) > 50 and (select reltuples from pg_class where oid = 'holdfast.messages'::regclass)
      < 4 * cardinality(v_new) then
    analyze holdfast.messages;
  end if;
  -- Of two with one id and another content the first stands. What was said here is as it was said.
  with judged as materialized (
    select r.line, coalesce((select case when x.role <> r.role or x.import_hash is not null and x.import_hash <> r.hash
            then 'conflict' else '' end from holdfast.messages x
            where x.tenant_id = p_tenant and x.session_id = p_session and x.id = r.id), 'reply') as why
      from json_to_recordset(p_rows) r(line int, id text, role text, hash text))
  select coalesce(json_agg(json_build_object('line', line, 'why', why) order by line) filter (where why <> ''), '[]'),
      count(*) filter (where why = '')
    into v_bad, v_known from judged;
  v_known := v_known - cardinality(v_new) + (p_session_row is not null and not v_made and not v_changed)::int;

  if cardinality(v_new) > 0 then
    v_tip := holdfast.arrange_imported(p_tenant, p_session, p_user, v_tip);
    select count(*) into v_after from holdfast.messages where tenant_id = p_tenant and session_id = p_session
      and import_hash is not null and not withdrawn;
    perform holdfast.count_in(p_tenant, p_session, null, v_after - v_before, false, null);
    -- Which messages are shown from now on only a snapshot tells.
    v_seqs := v_seqs || holdfast.write_event(p_tenant, p_session, 'branch.selected', null,
      json_build_object('messageId', v_tip, 'index', 0, 'count', 1));
  end if;
  if v_changed and not v_made then
    select * into s from holdfast.sessions where tenant_id = p_tenant and id = p_session;
    v_seqs := v_seqs || holdfast.write_event(p_tenant, p_session, 'session.updated', null,
      json_build_object('session', holdfast.session_json(s, 0, null)));
  end if;
  select count(*) into v_waiting from holdfast.messages where tenant_id = p_tenant and session_id = p_session
    and id = any(v_new) and withdrawn;
  -- Last of all, as with each row of a user's limits.
  v_added := cardinality(v_new) + v_made::int;
  if v_added > 0 then
    insert into holdfast.limits as l (tenant_id, user_id, imported, imported_on)
      values (p_tenant, p_user, v_added, holdfast.utc_day())
      on conflict (tenant_id, user_id) do update set imported_on = excluded.imported_on,
        imported = excluded.imported + case when l.imported_on = excluded.imported_on then l.imported else 0 end;
  end if;
  return json_build_object('outcome', 'imported', 'at', v_at, 'made', v_made, 'new', cardinality(v_new)
      + (p_session_row is not null and (v_made or v_changed))::int, 'known', v_known, 'waiting', v_waiting, 'bad', v_bad,
    'events', coalesce(holdfast.events_of(p_tenant, p_session, v_seqs), '[]'));
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- A user's id in a session becomes another: a guest's that of an account, a deleted user's one that says nothing.

-- Who was a member and is none any more: of them there may still be messages, which nobody else remembers.
create table holdfast.former_members (
  tenant_id text not null,
  session_id text not null,
  user_id text not null,
  primary key (tenant_id, user_id, session_id),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
);
create index former_members_of_session on holdfast.former_members (tenant_id, session_id);

create function holdfast.note_former_members() returns trigger language plpgsql as $$
begin
  insert into holdfast.former_members (tenant_id, session_id, user_id)
    select r.tenant_id, r.session_id, r.user_id from removed r
      join holdfast.sessions s on s.tenant_id = r.tenant_id and s.id = r.session_id
    on conflict do nothing;
  return null;
end $$;
create trigger former_members_are_known after delete on holdfast.members referencing old table as removed
  for each statement execute function holdfast.note_former_members();

create function holdfast.renamed_lane(p_lane text, p_from text, p_to text) returns text language sql immutable parallel safe as $$
  select case p_lane when 'user:' || p_from then 'user:' || p_to when 'private:' || p_from then 'private:' || p_to else p_lane end
$$;

create function holdfast.renamed_audience(p_audience text, p_from text, p_to text) returns text
  language sql immutable parallel safe as $$
  select case p_audience when 'user:' || p_from then 'user:' || p_to when 'not:' || p_from then 'not:' || p_to else p_audience end
$$;

-- Wherever it stands by itself as a text; keys are the app's words, and stay.
create function holdfast.renamed_values(p_data jsonb, p_from text, p_to text) returns jsonb
  language plpgsql immutable parallel safe as $$
begin
  return case jsonb_typeof(p_data)
    when 'object' then (select coalesce(jsonb_object_agg(key, holdfast.renamed_values(value, p_from, p_to)), '{}')
      from jsonb_each(p_data))
    when 'array' then (select coalesce(jsonb_agg(holdfast.renamed_values(value, p_from, p_to) order by n), '[]')
      from jsonb_array_elements(p_data) with ordinality e(value, n))
    else case when p_data = to_jsonb(p_from) then to_jsonb(p_to) else p_data end end;
end $$;

-- Our own events say in these places who it was. Elsewhere the same text is a role, a status, or what somebody said: a user
-- may be called "user".
create function holdfast.renamed_event(p_type text, p_data json, p_from text, p_to text) returns json
  language plpgsql immutable parallel safe as $$
declare d jsonb := p_data; v_path text[]; v_new text;
begin
  if p_type !~ '^(message|turn|attempt|approval|branch|member)\.' and p_type <> 'session.updated' then
    return holdfast.renamed_values(d, p_from, p_to);
  end if;
  for v_path in select string_to_array(path, '/')
      from unnest(array['by', 'userId', 'member/userId', 'message/author', 'message/lane']) path loop
    continue when jsonb_typeof(d #> v_path) is distinct from 'string';
    v_new := case when v_path[2] = 'lane' then holdfast.renamed_lane(d #>> v_path, p_from, p_to)
      when d #>> v_path = p_from then p_to else d #>> v_path end;
    d := jsonb_set(d, v_path, to_jsonb(v_new));
  end loop;
  return d;
end $$;

-- All but the membership. Where the other one has a lane of the same kind, what was said comes after what that one has, and
-- neither lane may have a turn that keeps it. Expects the session's row to be locked by the caller.
create function holdfast.rename_user(p_tenant text, p_session text, p_from text, p_to text) returns void
  language plpgsql as $$
declare v_kind text; v_tip text;
begin
  perform 1 from holdfast.turns where tenant_id = p_tenant and session_id = p_session order by id for no key update;
  foreach v_kind in array array['user:', 'private:'] loop
    v_tip := holdfast.tip_of(p_tenant, p_session, v_kind || p_to);
    continue when v_tip = '';
    update holdfast.messages set parent = v_tip
     where tenant_id = p_tenant and session_id = p_session and lane = v_kind || p_from and parent = '';
    update holdfast.turns set due_at = null
     where tenant_id = p_tenant and session_id = p_session and lane = v_kind || p_from and state = 'queued';
  end loop;
  update holdfast.messages set author = case author when p_from then p_to else author end,
      lane = holdfast.renamed_lane(lane, p_from, p_to), audience = holdfast.renamed_audience(audience, p_from, p_to)
   where tenant_id = p_tenant and session_id = p_session
     and (author = p_from or lane <> holdfast.renamed_lane(lane, p_from, p_to)
       or audience <> holdfast.renamed_audience(audience, p_from, p_to));
  update holdfast.turns set user_id = case user_id when p_from then p_to else user_id end,
      round_by = nullif(case round_by when p_from then p_to else round_by end, case user_id when p_from then p_to else user_id end),
      stopping = case stopping when p_from then p_to else stopping end,
      lane = holdfast.renamed_lane(lane, p_from, p_to), audience = holdfast.renamed_audience(audience, p_from, p_to)
   where tenant_id = p_tenant and session_id = p_session
     and (user_id = p_from or round_by = p_from or stopping = p_from or lane <> holdfast.renamed_lane(lane, p_from, p_to)
       or audience <> holdfast.renamed_audience(audience, p_from, p_to));
  perform holdfast.promote(p_tenant, p_session, kind || p_to) from unnest(array['user:', 'private:']) kind;
  update holdfast.asks set answered_by = p_to where tenant_id = p_tenant and session_id = p_session and answered_by = p_from;
  update holdfast.asks set rule = rule || jsonb_build_object('key', p_to)
   where tenant_id = p_tenant and session_id = p_session and rule ->> 'per' = 'user' and rule ->> 'key' = p_from;
  update holdfast.invites set created_by = p_to where tenant_id = p_tenant and session_id = p_session and created_by = p_from;
  update holdfast.files set author = case author when p_from then p_to else author end,
      audience = holdfast.renamed_audience(audience, p_from, p_to)
   where tenant_id = p_tenant and session_id = p_session
     and (author = p_from or audience <> holdfast.renamed_audience(audience, p_from, p_to));
  update holdfast.events set audience = holdfast.renamed_audience(audience, p_from, p_to),
      data = holdfast.renamed_event(type, data, p_from, p_to)
   where tenant_id = p_tenant and session_id = p_session
     and (audience <> holdfast.renamed_audience(audience, p_from, p_to) or strpos(data::text, to_json(p_from)::text) > 0
       or strpos(data::text, to_json('user:' || p_from)::text) > 0 or strpos(data::text, to_json('private:' || p_from)::text) > 0);
  delete from holdfast.pushes where tenant_id = p_tenant and session_id = p_session and device = 'app:' || p_from;
  update holdfast.pushes set user_id = p_to where tenant_id = p_tenant and session_id = p_session and user_id = p_from;
  insert into holdfast.asides as a (tenant_id, session_id, user_id, message_count, input_tokens, output_tokens, last_preview,
      preview_seq, last_model, model_seq, updated_at)
    select tenant_id, session_id, p_to, message_count, input_tokens, output_tokens, last_preview, preview_seq, last_model,
        model_seq, updated_at
      from holdfast.asides where tenant_id = p_tenant and session_id = p_session and user_id = p_from
    on conflict (tenant_id, session_id, user_id) do update set message_count = a.message_count + excluded.message_count,
      input_tokens = a.input_tokens + excluded.input_tokens, output_tokens = a.output_tokens + excluded.output_tokens,
      last_preview = case when excluded.preview_seq > a.preview_seq then excluded.last_preview else a.last_preview end,
      preview_seq = greatest(a.preview_seq, excluded.preview_seq),
      last_model = case when excluded.model_seq > a.model_seq then excluded.last_model else a.last_model end,
      model_seq = greatest(a.model_seq, excluded.model_seq), updated_at = greatest(a.updated_at, excluded.updated_at);
  delete from holdfast.asides where tenant_id = p_tenant and session_id = p_session and user_id = p_from;
  delete from holdfast.departures where tenant_id = p_tenant and session_id = p_session and user_id = p_from;
end $$;

-- What is shown, and of whom it is, only a snapshot tells from now on. Null: nothing is shown. Expects the lock.
create function holdfast.shown_anew(p_tenant text, p_session text) returns int language plpgsql as $$
declare v_message text;
begin
  select id into v_message from holdfast.messages where tenant_id = p_tenant and session_id = p_session and shown
    and audience is null order by position desc, role limit 1;
  if not found then return null; end if;
  return holdfast.write_event(p_tenant, p_session, 'branch.selected', null,
    json_build_object('messageId', v_message, 'index', 0, 'count', 1));
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- A guest who signs in. Whoever claims a guest first has them: from then on the guest's cookie is worth nothing, and what
-- they have goes to the account, session by session.

create table holdfast.guests (
  tenant_id text not null,
  guest_id text not null,
  -- Whose they are now.
  user_id text not null,
  sessions int not null default 0,
  merged_at timestamptz not null default clock_timestamp(),
  -- Null: something of theirs has still to be moved.
  done_at timestamptz,
  primary key (tenant_id, guest_id)
);
create index guests_of_user on holdfast.guests (tenant_id, user_id);
create index guests_to_move on holdfast.guests (merged_at) where done_at is null;

-- As the server names them (src/http/principal.ts), and no account.
create function holdfast.is_guest(p_user text) returns boolean language sql immutable parallel safe as $$
  select p_user ~ '^guest-[A-Za-z0-9_-]{22}$'
$$;

create function holdfast.guest_key(p_tenant text, p_guest text) returns bigint language sql immutable parallel safe as $$
  select hashtextextended('guest ' || p_tenant || ' ' || p_guest, 0)
$$;

-- A request of the guest's may be under way: what it makes is there before the guest is claimed, or is refused and asked again,
-- which finds that there is no such guest any more.
create function holdfast.refuse_merged_guest() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(holdfast.guest_key(new.tenant_id, new.user_id));
  if exists (select from holdfast.guests where tenant_id = new.tenant_id and guest_id = new.user_id) then
    raise exception 'this guest has signed in meanwhile' using errcode = 'serialization_failure';
  end if;
  return new;
end $$;
create trigger merged_guests_join_nothing before insert on holdfast.members for each row when (holdfast.is_guest(new.user_id))
  execute function holdfast.refuse_merged_guest();

create function holdfast.guest_json(g holdfast.guests) returns json language sql stable as $$
  select json_build_object('guestId', g.guest_id, 'userId', g.user_id, 'sessions', g.sessions, 'isDone', g.done_at is not null)
$$;

-- Outcomes: claimed (also again, by the same account), taken (by another). While the account is being deleted for good it waits,
-- and then the account is one that begins anew.
create function holdfast.claim_guest(p_tenant text, p_guest text, p_user text) returns json language plpgsql as $$
declare g holdfast.guests;
begin
  perform pg_advisory_xact_lock(holdfast.guest_key(p_tenant, p_guest));
  perform pg_advisory_xact_lock_shared(holdfast.guest_key(p_tenant, p_user));
  insert into holdfast.guests (tenant_id, guest_id, user_id) values (p_tenant, p_guest, p_user) on conflict do nothing;
  select * into g from holdfast.guests where tenant_id = p_tenant and guest_id = p_guest;
  if g.user_id <> p_user then return json_build_object('outcome', 'taken'); end if;
  -- Each would open a socket as the guest.
  delete from holdfast.tickets where tenant_id = p_tenant and user_id = p_guest;
  return json_build_object('outcome', 'claimed', 'guest', holdfast.guest_json(g),
    'sessions', (select coalesce(json_agg(session_id), '[]') from (select session_id from holdfast.members
        where tenant_id = p_tenant and user_id = p_guest
      union select session_id from holdfast.former_members where tenant_id = p_tenant and user_id = p_guest) x));
end $$;

-- Whose a lane is when two become one: only one turn may keep it.
create function holdfast.lanes_meet(p_tenant text, p_session text, p_from text, p_to text) returns boolean
  language sql stable as $$
  select exists (select from holdfast.turns a join holdfast.turns b on b.tenant_id = p_tenant and b.session_id = p_session
      and b.lane = holdfast.renamed_lane(a.lane, p_from, p_to) and holdfast.keeps_lane(b)
    where a.tenant_id = p_tenant and a.session_id = p_session and holdfast.keeps_lane(a)
      and a.lane <> holdfast.renamed_lane(a.lane, p_from, p_to))
$$;

-- Outcomes: merged, same (nothing of the guest is there), busy (both have a reply that is being written in a lane that becomes
-- one: the guest's are marked, to be stopped now, and this is asked again).
create function holdfast.merge_session(p_tenant text, p_session text, p_guest text, p_user text) returns json
  language plpgsql as $$
declare v_guest holdfast.members; v_own holdfast.members; v_marked json; v_seqs int[] := '{}'; v_was boolean;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not found then return json_build_object('outcome', 'same'); end if;
  -- The account may have been deleted since it claimed them.
  perform 1 from holdfast.guests where tenant_id = p_tenant and guest_id = p_guest and user_id = p_user for no key update;
  if not found then return json_build_object('outcome', 'same'); end if;
  if holdfast.lanes_meet(p_tenant, p_session, p_guest, p_user) then
    with marked as (
      update holdfast.turns t set stopping = p_guest, stopping_reason = 'merged', updated_at = clock_timestamp()
       where t.tenant_id = p_tenant and t.session_id = p_session and holdfast.keeps_lane(t)
         and t.lane <> holdfast.renamed_lane(t.lane, p_guest, p_user)
       returning message_id, round)
    select json_agg(json_build_object('messageId', message_id, 'round', round)) into v_marked from marked;
    return json_build_object('outcome', 'busy', 'interrupted', v_marked);
  end if;
  select * into v_guest from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_guest;
  v_was := found;
  select * into v_own from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  perform holdfast.rename_user(p_tenant, p_session, p_guest, p_user);
  if v_was then
    v_seqs := v_seqs || holdfast.write_event(p_tenant, p_session, 'member.left', null,
      json_build_object('userId', p_guest, 'by', p_user, 'reason', 'merged'));
    delete from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_guest;
    if v_own.user_id is null then
      v_own := v_guest;
      v_own.user_id := p_user;
      insert into holdfast.members select v_own.*;
      delete from holdfast.departures where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
      v_seqs := v_seqs || holdfast.write_event(p_tenant, p_session, 'member.joined', null,
        json_build_object('member', holdfast.member_json(v_own), 'by', p_user));
    else
      -- What either may, both may; and what either has read, neither has to read.
      update holdfast.members set muted = muted and v_guest.muted, joined_at = least(joined_at, v_guest.joined_at),
          delivered_seq = greatest(delivered_seq, v_guest.delivered_seq), read_seq = greatest(read_seq, v_guest.read_seq),
          role = case when 'owner' in (role, v_guest.role) then 'owner' when 'member' in (role, v_guest.role) then 'member'
            else 'reader' end
       where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
      if v_own.role <> 'owner' and v_guest.role < v_own.role or v_guest.role = 'owner' and v_own.role <> 'owner' then
        select * into v_own from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
        v_seqs := v_seqs || holdfast.write_event(p_tenant, p_session, 'member.changed', null,
          json_build_object('member', holdfast.member_json(v_own), 'by', p_user));
      end if;
    end if;
  end if;
  perform holdfast.show_lane(p_tenant, p_session, lane) from unnest(array['user:' || p_user, 'private:' || p_user]) lane;
  v_seqs := array_remove(v_seqs || holdfast.shown_anew(p_tenant, p_session), null);
  delete from holdfast.former_members where tenant_id = p_tenant and session_id = p_session and user_id = p_guest;
  update holdfast.guests set sessions = sessions + v_was::int where tenant_id = p_tenant and guest_id = p_guest;
  return json_build_object('outcome', 'merged', 'events', holdfast.events_of(p_tenant, p_session, v_seqs));
end $$;

-- What a guest has beside sessions. Of the ledger nothing is moved: its rows are facts, of who used what then. Answers the
-- guest, or null: a session is still theirs.
create function holdfast.finish_merge(p_tenant text, p_guest text, p_devices_max int) returns json language plpgsql as $$
declare g holdfast.guests;
begin
  select * into g from holdfast.guests where tenant_id = p_tenant and guest_id = p_guest for no key update;
  if exists (select from holdfast.members where tenant_id = p_tenant and user_id = p_guest)
      or exists (select from holdfast.former_members where tenant_id = p_tenant and user_id = p_guest) then
    return null;
  end if;
  if g.done_at is not null then return holdfast.guest_json(g); end if;
  update holdfast.devices d set user_id = g.user_id, id = case when exists (select from holdfast.devices o
        where o.tenant_id = p_tenant and o.user_id = g.user_id and o.id = d.id) then gen_random_uuid()::text else d.id end
   where d.tenant_id = p_tenant and d.user_id = p_guest;
  delete from holdfast.devices where (tenant_id, user_id, id) in (
    select tenant_id, user_id, id from holdfast.devices where tenant_id = p_tenant and user_id = g.user_id
     order by registered_at desc, id offset p_devices_max);
  -- Who signs in may not send more within the minute for it, nor import more on this day.
  insert into holdfast.limits as l (tenant_id, user_id, sends, imported, imported_on)
    select tenant_id, g.user_id, sends, imported, imported_on from holdfast.limits
     where tenant_id = p_tenant and user_id = p_guest
    on conflict (tenant_id, user_id) do update set sends = l.sends || excluded.sends,
      imported_on = greatest(l.imported_on, excluded.imported_on),
      imported = case when l.imported_on = excluded.imported_on then l.imported + excluded.imported
        when excluded.imported_on is null or l.imported_on > excluded.imported_on then l.imported else excluded.imported end;
  delete from holdfast.limits where tenant_id = p_tenant and user_id = p_guest;
  delete from holdfast.tickets where tenant_id = p_tenant and user_id = p_guest;
  delete from holdfast.presences where tenant_id = p_tenant and user_id = p_guest;
  update holdfast.guests set done_at = clock_timestamp() where tenant_id = p_tenant and guest_id = p_guest returning * into g;
  return holdfast.guest_json(g);
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- A user is deleted. Sessions that nobody else is a member of go with them. In others what they said to all stays, under a
-- name that says nothing; what they said alone to the assistant goes.

-- Those that are being deleted. The row goes with the rest.
create table holdfast.erasures (
  tenant_id text not null,
  user_id text not null,
  -- What stands for them in what is kept.
  pseudonym text not null,
  begun_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, user_id)
);

-- Who was deleted of late, as a hash: what a provider says late of a reply of theirs is counted under the other name.
create table holdfast.erased (
  tenant_id text not null,
  user_hash bytea not null,
  pseudonym text not null,
  at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, user_hash)
);

create function holdfast.user_hash(p_user text) returns bytea language sql immutable parallel safe as $$
  select sha256(convert_to(p_user, 'UTF8'))
$$;

-- The turn says whose it is by now; where it is gone, its user may be.
create function holdfast.count_under_name() returns trigger language plpgsql as $$
begin
  new.user_id := coalesce((select user_id from holdfast.turns where tenant_id = new.tenant_id and id = new.turn_id),
    (select pseudonym from holdfast.erased where tenant_id = new.tenant_id and user_hash = holdfast.user_hash(new.user_id)),
    new.user_id);
  return new;
end $$;
create trigger usage_of_who_is_there before insert on holdfast.usage for each row execute function holdfast.count_under_name();

-- Answers the name that stands for them, their sessions, and the guests that are still being made theirs.
create function holdfast.begin_erasure(p_tenant text, p_user text) returns json language plpgsql as $$
declare e holdfast.erasures;
begin
  insert into holdfast.erasures (tenant_id, user_id, pseudonym) values (p_tenant, p_user, 'deleted-' || gen_random_uuid())
    on conflict (tenant_id, user_id) do update set begun_at = clock_timestamp() returning * into e;
  insert into holdfast.erased (tenant_id, user_hash, pseudonym) values (p_tenant, holdfast.user_hash(p_user), e.pseudonym)
    on conflict (tenant_id, user_hash) do update set pseudonym = excluded.pseudonym, at = clock_timestamp();
  -- First of all what lets them in, and what is sent to them.
  delete from holdfast.tickets where tenant_id = p_tenant and user_id = p_user;
  delete from holdfast.devices where tenant_id = p_tenant and user_id = p_user;
  return json_build_object('pseudonym', e.pseudonym,
    'guests', (select coalesce(json_agg(guest_id), '[]') from holdfast.guests
      where tenant_id = p_tenant and user_id = p_user and done_at is null),
    'sessions', (select coalesce(json_agg(session_id), '[]') from (
      select session_id from holdfast.members where tenant_id = p_tenant and user_id = p_user
      union select session_id from holdfast.former_members where tenant_id = p_tenant and user_id = p_user) x));
end $$;

-- Outcomes: deleted (the session, with its members), left (with what is told of it), same (nothing of theirs is there), busy
-- (as in `merge_session`: turns are marked, to be stopped now, and this is asked again).
create function holdfast.erase_from_session(p_tenant text, p_session text, p_user text, p_pseudonym text) returns json
  language plpgsql as $$
declare m holdfast.members; v_heir text; v_answer json; v_marked json; v_events jsonb := '[]'; v_seq int; v_private uuid[];
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not found then return json_build_object('outcome', 'same'); end if;
  select * into m from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if found and not exists (select from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id <> p_user) then
    perform holdfast.erase_session(p_tenant, p_session);
    return json_build_object('outcome', 'deleted', 'members', json_build_array(p_user));
  end if;
  -- Of what they were there alone for, nothing is stopped: it goes. All else that is theirs is ended before it is renamed.
  with marked as (
    update holdfast.turns t set stopping = p_user, stopping_reason = 'removed', updated_at = clock_timestamp()
     where t.tenant_id = p_tenant and t.session_id = p_session and holdfast.asked_by(t) = p_user and holdfast.is_live(t)
       and holdfast.alone(t.audience) is null
     returning message_id, round, position)
  select json_agg(json_build_object('messageId', message_id, 'round', round) order by position desc) into v_marked from marked;
  if v_marked is not null then return json_build_object('outcome', 'busy', 'interrupted', v_marked); end if;

  v_private := array(select id from holdfast.turns where tenant_id = p_tenant and session_id = p_session
    and audience = 'user:' || p_user order by id for no key update);
  delete from holdfast.chunks where tenant_id = p_tenant and turn_id = any(v_private);
  delete from holdfast.asks where tenant_id = p_tenant and turn_id = any(v_private);
  delete from holdfast.tool_calls where tenant_id = p_tenant and turn_id = any(v_private);
  delete from holdfast.turns where tenant_id = p_tenant and id = any(v_private);
  delete from holdfast.messages where tenant_id = p_tenant and session_id = p_session and audience = 'user:' || p_user;
  delete from holdfast.files where tenant_id = p_tenant and session_id = p_session and audience = 'user:' || p_user;
  delete from holdfast.asides where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  delete from holdfast.pushes where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  delete from holdfast.presences where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  -- The log has no holes: of what nobody sees any more the place stays.
  update holdfast.events set data = '{}', turn_id = null, type = 'erased'
   where tenant_id = p_tenant and session_id = p_session and audience = 'user:' || p_user;

  if m.user_id is not null then
    if holdfast.is_last_owner(m) then
      select user_id into v_heir from holdfast.members where tenant_id = p_tenant and session_id = p_session
        and user_id <> p_user order by role = 'reader', joined_at, user_id limit 1;
      v_answer := holdfast.change_member(p_tenant, p_session, null, v_heir, 'owner');
      v_events := v_events || (v_answer -> 'event')::jsonb;
    end if;
    v_answer := holdfast.remove_member(p_tenant, p_session, p_user, p_user);
    v_events := v_events || (v_answer -> 'event')::jsonb;
  end if;
  perform holdfast.rename_user(p_tenant, p_session, p_user, p_pseudonym);
  -- What the log tells of them as the guest who they were.
  perform holdfast.rename_user(p_tenant, p_session, guest_id, p_pseudonym) from holdfast.guests
    where tenant_id = p_tenant and user_id = p_user and done_at is not null;
  v_seq := holdfast.shown_anew(p_tenant, p_session);
  if v_seq is not null then v_events := v_events || (holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0)::jsonb; end if;
  delete from holdfast.former_members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  return json_build_object('outcome', 'left', 'events', v_events);
end $$;

-- The rest, in every table that has a column `user_id`, also in those that are made after this one. What counts money is kept,
-- under the name that stands for them, and so is that a guest was theirs: their cookie is worth nothing for good. False: a
-- session or a guest is still theirs, which they made or claimed meanwhile.
create function holdfast.finish_erasure(p_tenant text, p_user text) returns boolean language plpgsql as $$
declare v_pseudonym text; v_table text; v_ids text[];
begin
  select pseudonym into v_pseudonym from holdfast.erasures where tenant_id = p_tenant and user_id = p_user for update;
  if not found then return true; end if;
  -- What imports and claims for them at this moment is done before the next look, or begins after all is gone.
  perform pg_advisory_xact_lock(holdfast.guest_key(p_tenant, p_user));
  if exists (select from holdfast.guests where tenant_id = p_tenant and user_id = p_user and done_at is null)
      or exists (select from holdfast.members where tenant_id = p_tenant and user_id = p_user)
      or exists (select from holdfast.former_members where tenant_id = p_tenant and user_id = p_user) then
    return false;
  end if;
  v_ids := array(select guest_id from holdfast.guests where tenant_id = p_tenant and user_id = p_user) || p_user;
  for v_table in select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'holdfast'
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'user_id' and not a.attisdropped
      join pg_attribute b on b.attrelid = c.oid and b.attname = 'tenant_id' and not b.attisdropped
     where c.relkind in ('r', 'p') order by c.relname loop
    if v_table like 'usage%' or v_table = 'guests' then
      execute format('update holdfast.%I set user_id = $2 where tenant_id = $1 and user_id = any($3)', v_table)
        using p_tenant, v_pseudonym, v_ids;
    -- Sessions, whose rows go with the session: done above.
    elsif v_table not in ('members', 'former_members', 'turns', 'asides', 'departures', 'pushes') then
      execute format('delete from holdfast.%I where tenant_id = $1 and user_id = any($2)', v_table) using p_tenant, v_ids;
    end if;
  end loop;
  return true;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- What was begun and not finished, for whoever looks, and what is older than the app keeps. Who was deleted more than a day ago
-- is forgotten by their hash, too.

create function holdfast.begun_transfers(p_older_ms int, p_limit int) returns setof json language sql as $$
  delete from holdfast.erased where at < clock_timestamp() - interval '1 day';
  (select json_build_object('kind', 'merge', 'tenantId', tenant_id, 'userId', user_id, 'guestId', guest_id)
    from holdfast.guests where done_at is null and merged_at < clock_timestamp() - make_interval(secs => p_older_ms / 1000.0)
   order by merged_at limit p_limit)
  union all
  (select json_build_object('kind', 'erase', 'tenantId', tenant_id, 'userId', user_id)
    from holdfast.erasures where begun_at < clock_timestamp() - make_interval(secs => p_older_ms / 1000.0)
   order by begun_at limit p_limit)
$$;

-- Looks at the next `p_limit` sessions after a place, and deletes those in which nothing has happened for so long; of guests
-- alone (`p_guests_ms`) earlier. An index over when they changed would be written with each event of each session. One process
-- at a time: others are answered null. A session in which a reply is still to come is kept.
create function holdfast.retain(p_tenant text, p_session text, p_limit int, p_sessions_ms bigint, p_guests_ms bigint)
  returns json language plpgsql as $$
declare s holdfast.sessions; v_gone jsonb := '[]'; v_last jsonb; v_looked int := 0; v_members text[];
begin
  if not pg_try_advisory_xact_lock(7203443) then return null; end if;
  for s in select * from holdfast.sessions where (tenant_id, id) > (p_tenant, p_session) order by tenant_id, id limit p_limit loop
    v_looked := v_looked + 1;
    v_last := jsonb_build_object('tenantId', s.tenant_id, 'sessionId', s.id);
    continue when not holdfast.is_over(s, p_sessions_ms, p_guests_ms);
    select * into s from holdfast.sessions where tenant_id = s.tenant_id and id = s.id for no key update skip locked;
    -- Of this moment: somebody may have said something meanwhile.
    continue when not found or not holdfast.is_over(s, p_sessions_ms, p_guests_ms);
    v_members := array(select user_id from holdfast.members where tenant_id = s.tenant_id and session_id = s.id);
    perform holdfast.erase_session(s.tenant_id, s.id);
    v_gone := v_gone || jsonb_build_array(v_last || jsonb_build_object('members', to_jsonb(v_members)));
    exit when jsonb_array_length(v_gone) >= 100;
  end loop;
  return json_build_object('gone', v_gone, 'last', v_last, 'isEnd', v_looked < p_limit and jsonb_array_length(v_gone) < 100);
end $$;

create function holdfast.is_over(s holdfast.sessions, p_sessions_ms bigint, p_guests_ms bigint) returns boolean
  language plpgsql stable as $$
declare v_changed timestamptz;
begin
  select greatest(s.updated_at, max(updated_at)) into v_changed from holdfast.asides
   where tenant_id = s.tenant_id and session_id = s.id;
  if v_changed >= clock_timestamp() - make_interval(secs => least(p_sessions_ms, p_guests_ms) / 1000.0) then return false; end if;
  if exists (select from holdfast.turns t where t.tenant_id = s.tenant_id and t.session_id = s.id and holdfast.is_live(t)) then
    return false;
  end if;
  return v_changed < clock_timestamp() - make_interval(secs => p_sessions_ms / 1000.0)
    or p_guests_ms is not null and not exists (select from holdfast.members where tenant_id = s.tenant_id and session_id = s.id
      and not holdfast.is_guest(user_id)) and v_changed < clock_timestamp() - make_interval(secs => p_guests_ms / 1000.0);
end $$;
