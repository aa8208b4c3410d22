-- Limits: how many turns without an outcome a user has.

create index turns_of_user on holdfast.turns (tenant_id, (coalesce(round_by, user_id)))
  where state in ('queued', 'running', 'waiting');

-- Those that are being stopped count no more. Asked under the lock of the user's row, after which no other begins.
create function holdfast.open_turns_of(p_tenant text, p_user text, p_without uuid[]) returns int language sql stable as $$
  select count(*)::int from holdfast.turns t
   where t.tenant_id = p_tenant and coalesce(t.round_by, t.user_id) = p_user and t.state in ('queued', 'running', 'waiting')
     and t.stopping is null and t.id <> all(p_without)
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Budgets of the option `limits`, each {id, per, key, every, measure, max, mayGoOn}: `max` tokens or cost, in each hour, day
-- or month (UTC; null: ever), of a turn, a session, a user or the tenant (`key`: its id). What is used is the ledger: the
-- rows of attempts that have ended, by when they did, as the daily figures count, and of those that run each row, with what it
-- holds back (`reserved_…`) while it is open. So there is nothing else to be kept right: what ends an attempt of a process
-- that died settles its rows, and with that what they held back is free.

-- Few: of attempts that run.
create index usage_of_running on holdfast.usage (tenant_id, user_id) where ended_at is null;
create index usage_of_session on holdfast.usage (tenant_id, session_id, ended_at);
create index asks_beyond_limits on holdfast.asks (asked_at) where state = 'open' and rule is not null;

create function holdfast.period_start(p_every text) returns timestamptz language sql stable as $$
  select case when p_every is null then '-infinity'::timestamptz
    else date_trunc(p_every, clock_timestamp() at time zone 'utc') at time zone 'utc' end
$$;

-- Null: never.
create function holdfast.period_end(p_every text) returns timestamptz language sql stable as $$
  select (date_trunc(p_every, clock_timestamp() at time zone 'utc') + ('1 ' || p_every)::interval) at time zone 'utc'
$$;

create function holdfast.spent(p_tenant text, b jsonb) returns table (used numeric, reserved numeric) language plpgsql stable
  as $$
declare v_key text := b ->> 'key'; v_tokens boolean := b ->> 'measure' = 'tokens'; v_per text := b ->> 'per';
  v_from timestamptz := holdfast.period_start(b ->> 'every'); v_daily numeric := 0; v_rows_from timestamptz := v_from;
begin
  -- Days that the daily figures have are not added up again.
  if v_per in ('user', 'tenant') and b ->> 'every' in ('day', 'month') then
    v_rows_from := 'infinity';
    if v_per = 'user' then
      select sum(case when v_tokens then (p.input_tokens + p.output_tokens)::numeric else p.cost end) into v_daily
        from holdfast.usage_daily_parts p
       where p.tenant_id = p_tenant and p.user_id = v_key and p.day >= (v_from at time zone 'utc')::date;
    else
      select sum(case when v_tokens then p.tokens::numeric else p.cost end) into v_daily
        from holdfast.usage_of_tenants p where p.tenant_id = p_tenant and p.day >= (v_from at time zone 'utc')::date;
    end if;
    v_daily := coalesce(v_daily, 0);
  end if;
  -- Written out for what it is of, so that each finds its index.
  return query execute 'select $4 + coalesce(sum(case when u.state = ''open'' then 0 when $5
          then coalesce(u.input_tokens, 0)::numeric + coalesce(u.output_tokens, 0) else coalesce(u.cost, 0) end), 0),
        coalesce(sum(case when u.state <> ''open'' then 0 when $5 then u.reserved_tokens::numeric
          else u.reserved_cost end), 0)
      from holdfast.usage u where u.tenant_id = $1 and (u.ended_at is null or u.ended_at >= $3)'
    || case v_per when 'turn' then ' and u.turn_id = $2::uuid' when 'session' then ' and u.session_id = $2'
      when 'user' then ' and u.user_id = $2' else '' end
    using p_tenant, v_key, v_rows_from, v_daily, v_tokens;
end $$;

-- As it is told: with how much is used, and when it is renewed.
create function holdfast.used_up_json(b jsonb, p_used numeric) returns jsonb language sql stable as $$
  select b || jsonb_build_object('used', p_used, 'renewsAt', holdfast.iso(holdfast.period_end(b ->> 'every')),
    'freeInMs', ceil(extract(epoch from holdfast.period_end(b ->> 'every') - clock_timestamp()) * 1000)::bigint)
$$;

-- The first of these of which nothing is left, whatever is held back; null: there is none.
create function holdfast.used_up_of(p_tenant text, p_budgets jsonb) returns jsonb language plpgsql stable as $$
declare b jsonb; v_used numeric;
begin
  for b in select * from jsonb_array_elements(p_budgets) loop
    select s.used into v_used from holdfast.spent(p_tenant, b) s;
    if v_used >= (b ->> 'max')::numeric then return holdfast.used_up_json(b, v_used); end if;
  end loop;
  return null;
end $$;

-- Before the model is called: holds back what this step is thought to use, or what is left where that is less, from each of
-- these budgets at once. Two that race for the last token: the second waits for the lock, and then sees what the first
-- holds. Asked again it holds the same. Outcomes: reserved, with what was left of each; over, with the budget; lost.
create function holdfast.reserve(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_step int, p_tokens bigint,
  p_budgets jsonb) returns json language plpgsql as $$
declare t holdfast.turns; b jsonb; v_lock bigint; s record; v_left numeric; v_tokens numeric := p_tokens; v_cost numeric;
  v_each numeric; v_budgets jsonb := '[]';
begin
  t := holdfast.held_turn(p_tenant, p_session, p_turn, p_attempt);
  if t.id is null then return json_build_object('outcome', 'lost'); end if;
  -- In one order, and after the turn: who has one of these locks waits for nothing but another of them.
  for v_lock in select distinct hashtextextended(json_build_array('budget', p_tenant, x ->> 'per', x ->> 'key')::text, 0)
      from jsonb_array_elements(p_budgets) x where x ->> 'per' <> 'turn' order by 1 loop
    perform pg_advisory_xact_lock(v_lock);
  end loop;
  perform holdfast.open_usage(t, p_step);
  update holdfast.usage set reserved_tokens = null, reserved_cost = null
   where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt and step = p_step and state = 'open';
  for b in select * from jsonb_array_elements(p_budgets) loop
    -- Somebody has let this round go on beyond it.
    continue when exists (select from holdfast.asks a where a.tenant_id = p_tenant and a.turn_id = p_turn
      and a.round = t.round and a.kind = 'budget' and a.name = b ->> 'id' and a.state = 'answered'
      and a.answer -> 'approved' = 'true');
    select * into s from holdfast.spent(p_tenant, b);
    v_left := (b ->> 'max')::numeric - s.used - s.reserved;
    if v_left <= 0 then
      return json_build_object('outcome', 'over', 'budget', holdfast.used_up_json(b, s.used + s.reserved));
    end if;
    v_budgets := v_budgets || jsonb_build_object('left', v_left, 'budget', holdfast.used_up_json(b, s.used + s.reserved));
    if b ->> 'measure' = 'tokens' then
      v_tokens := least(v_tokens, v_left);
    else
      -- By what the user's last step cost; where nobody knows, a hundredth of the budget.
      v_each := (select u.cost / nullif(u.input_tokens + u.output_tokens, 0) from (select * from holdfast.usage
          where tenant_id = p_tenant and user_id = t.user_id and ended_at is not null order by ended_at desc limit 100) u
        where u.cost > 0 order by u.ended_at desc limit 1);
      v_cost := least(coalesce(v_cost, v_left), v_left, coalesce(v_each * p_tokens, (b ->> 'max')::numeric / 100));
    end if;
  end loop;
  update holdfast.usage set reserved_tokens = ceil(v_tokens), reserved_cost = v_cost
   where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt and step = p_step and state = 'open';
  return json_build_object('outcome', 'reserved', 'budgets', v_budgets);
end $$;

-- Who may say yes to more than a budget; a null user is the server, who may.
create function holdfast.may_go_on(a holdfast.asks, p_user text) returns boolean language sql stable as $$
  select p_user is null or case coalesce(a.rule ->> 'mayGoOn', 'member')
    when 'member' then true
    when 'owner' then exists (select from holdfast.members m where m.tenant_id = a.tenant_id
      and m.session_id = a.session_id and m.user_id = p_user and m.role = 'owner')
    else false end
$$;

-- Lets go on what waits for a budget that has room again: its time is over, or what was held back was not used. Of those that
-- many wait for a few more may go on than there is room for: they ask again. For the sweeper.
create function holdfast.renew_budgets(p_limit int) returns setof json language plpgsql as $$
declare cand record; t holdfast.turns; a holdfast.asks; s record; v_seq int;
begin
  for cand in select tenant_id, session_id, turn_id, round, step, call_id, attempt, rule from holdfast.asks
     where state = 'open' and rule is not null order by random() limit p_limit
  loop
    begin
      select * into s from holdfast.spent(cand.tenant_id, cand.rule);
      continue when s.used + s.reserved >= (cand.rule ->> 'max')::numeric;
      perform 1 from holdfast.sessions where tenant_id = cand.tenant_id and id = cand.session_id
        for no key update skip locked;
      continue when not found;
      select * into t from holdfast.turns where tenant_id = cand.tenant_id and id = cand.turn_id
        and state = 'waiting' and stopping is null for no key update skip locked;
      continue when not found;
      select * into a from holdfast.asks where tenant_id = cand.tenant_id and turn_id = cand.turn_id and round = cand.round
        and step = cand.step and call_id = cand.call_id and attempt = cand.attempt and state = 'open';
      continue when not found;
      v_seq := holdfast.take_answer(t, a, 'expired', '{"approved": true, "reason": "renewed"}', 'server');
      return next json_build_object('tenantId', t.tenant_id, 'sessionId', t.session_id,
        'event', holdfast.events_of(t.tenant_id, t.session_id, array[v_seq]) -> 0);
    exception when others then
      return next json_build_object('tenantId', cand.tenant_id, 'sessionId', cand.session_id, 'error', sqlerrm);
    end;
  end loop;
end $$;
