-- The ledger's transitions (its table: 0001), and what each user has used per day.
--
-- A row is opened before the provider is called, with the claim or with what ends the step before, so no round trip is added:
--   open ──▶ reported    by the attempt's process: with the checkpoint after the step, or with the attempt's end
--   open ──▶ estimated   by whoever ends an attempt that cannot say: from its stored chunks and its prompt
--   estimated ──▶ reported    by a process that hears late
--   open, estimated ──▶ gone  by a process that knows that the call was not made
-- While its attempt runs a row has no end; the end gives it outcome and time. From then on it counts in the daily figures.
--
-- Locks: after the session and the turn, the turn's rows. The daily figures are last and wait for nobody, see `fold_usage`.

-- Before the call of the model. Of a step that is open already the later word on where its chunks begin counts.
create function holdfast.open_usage(t holdfast.turns, p_step int, p_from_index int default 0,
  p_reserved_tokens bigint default null, p_reserved_cost numeric default null) returns void language plpgsql as $$
begin
  insert into holdfast.usage as u (tenant_id, turn_id, attempt, step, session_id, user_id, state, from_index,
      reserved_tokens, reserved_cost)
    values (t.tenant_id, t.id, t.attempt, p_step, t.session_id, t.user_id, 'open', p_from_index, p_reserved_tokens,
      p_reserved_cost)
    on conflict (tenant_id, turn_id, attempt, step) do update set from_index = excluded.from_index
      where u.state = 'open' and u.from_index < excluded.from_index;
end $$;

-- What a process says of its attempt's steps. `estimated`: its own guess. `notMade`: the model was not called.
create function holdfast.reports_in(p_usage json) returns table (step int, provider text, model text, input_tokens int,
  output_tokens int, cached_input_tokens int, reasoning_tokens int, cost numeric, is_estimated boolean, not_made boolean)
  language sql immutable as $$
  select distinct on (step) step, provider, model, "inputTokens", "outputTokens", "cachedInputTokens", "reasoningTokens",
      cost, coalesce(estimated, false), coalesce("notMade", false)
    from json_to_recordset(p_usage) u(step int, provider text, model text, "inputTokens" int, "outputTokens" int,
      "cachedInputTokens" int, "reasoningTokens" int, cost numeric, estimated boolean, "notMade" boolean)
   order by step
$$;

-- How many tokens such a report is of. (Estimates are no report.)
create function holdfast.tokens_in(p_usage json) returns bigint language sql immutable as $$
  select coalesce(sum(coalesce(input_tokens, 0)::bigint + coalesce(output_tokens, 0)) filter (where not is_estimated), 0)::bigint
    from holdfast.reports_in(p_usage)
$$;

-- Writes what is said of an attempt's steps. A reported row never changes.
create function holdfast.write_usage(p_tenant text, p_session text, p_user text, p_turn uuid, p_attempt int, p_usage json)
  returns void language plpgsql as $$
begin
  insert into holdfast.usage as u (tenant_id, turn_id, attempt, step, session_id, user_id, state, provider, model,
      input_tokens, output_tokens, cached_input_tokens, reasoning_tokens, cost)
    select p_tenant, p_turn, p_attempt, r.step, p_session, p_user, case when is_estimated then 'estimated' else 'reported' end,
        r.provider, r.model, r.input_tokens, r.output_tokens, r.cached_input_tokens, r.reasoning_tokens, r.cost
      from holdfast.reports_in(p_usage) r
     -- Each checkpoint tells all steps before it again.
     where not r.not_made and r.step not in (select u.step from holdfast.usage u where u.tenant_id = p_tenant
       and u.turn_id = p_turn and u.attempt = p_attempt and u.state = 'reported')
    on conflict (tenant_id, turn_id, attempt, step) do update set state = excluded.state, provider = excluded.provider,
        model = excluded.model, input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens,
        cached_input_tokens = excluded.cached_input_tokens, reasoning_tokens = excluded.reasoning_tokens,
        cost = excluded.cost, needs_price = false
      where u.state = 'open' or u.state = 'estimated' and excluded.state = 'reported';
  delete from holdfast.usage u using holdfast.reports_in(p_usage) r
   where r.not_made and u.tenant_id = p_tenant and u.turn_id = p_turn and u.attempt = p_attempt and u.step = r.step
     and u.state <> 'reported' and u.succeeded_on is null;
end $$;

-- Four bytes are taken for a token.
create function holdfast.tokens_of_bytes(p_bytes numeric) returns int language sql immutable as $$
  select least(10000000, ceil(greatest(0, coalesce(p_bytes, 0)) / 4))::int
$$;

-- What of an attempt is still open is estimated: what it wrote from the chunks that are stored, what it read from the
-- conversation that it was given and what the attempt wrote before.
create function holdfast.estimate_open(p_tenant text, p_turn uuid, p_attempt int) returns void language plpgsql as $$
declare t holdfast.turns; v_prompt numeric;
begin
  if not exists (select from holdfast.usage where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt
      and state = 'open') then
    return;
  end if;
  select * into t from holdfast.turns where tenant_id = p_tenant and id = p_turn;
  -- Where a provider has said how long the prompt is, that. SQL reads into no chunk: of each
  -- 48 bytes are taken for its frame, and one token at least for its text.
  select coalesce((select m.input_tokens * 4.0 from holdfast.messages m where m.tenant_id = p_tenant
      and m.session_id = t.session_id and m.id = t.message_id),
    (select sum(octet_length(m.parts::text)) from holdfast.messages m where m.tenant_id = p_tenant
      and m.session_id = t.session_id and m.lane = t.lane and m.shown and m.position <= t.position and m.id <> t.reply_id))
    into v_prompt;
  update holdfast.usage u set state = 'estimated', input_tokens = holdfast.tokens_of_bytes(v_prompt + e.before),
      output_tokens = holdfast.tokens_of_bytes(e.written)
    from (select o.step, coalesce(sum(c.bytes) filter (where c.index < o.from_index), 0) as before,
          sum(c.bytes) filter (where c.index >= o.from_index and c.index < coalesce(o.until_index, 2147483647)) as written
        from (select step, state, from_index, lead(from_index) over (order by step) as until_index from holdfast.usage
          where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt) o
        left join (select index, greatest(4 * n, octet_length(data::text) - 48 * n) as bytes from holdfast.chunks
          where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt) c on true
       where o.state = 'open' group by o.step) e
   where u.tenant_id = p_tenant and u.turn_id = p_turn and u.attempt = p_attempt and u.step = e.step and u.state = 'open';
end $$;

-- Who estimates does not know which model it was: the one that answered last, in this turn, in this session or to this
-- user. What it
-- costs is added by a sweeper, which knows the app's prices.
create function holdfast.guess_model(p_tenant text, p_user text, p_turn uuid, p_attempt int) returns void language plpgsql as $$
declare v_provider text; v_model text;
begin
  if not exists (select from holdfast.usage where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt
      and state = 'estimated' and ended_at is null and cost is null) then
    return;
  end if;
  select provider, model into v_provider, v_model from holdfast.usage
   where tenant_id = p_tenant and turn_id = p_turn and model is not null order by attempt desc, step desc limit 1;
  if v_model is null then
    select s.last_model into v_model from holdfast.turns t
      join holdfast.sessions s on s.tenant_id = t.tenant_id and s.id = t.session_id
     where t.tenant_id = p_tenant and t.id = p_turn;
  end if;
  if v_model is null then
    -- Of the last rows: whose replies never name one has no other.
    select u.provider, u.model into v_provider, v_model from (select * from holdfast.usage where tenant_id = p_tenant
        and user_id = p_user and ended_at is not null order by ended_at desc limit 100) u
     where u.model is not null order by u.ended_at desc limit 1;
  end if;
  update holdfast.usage set provider = case when model is null then v_provider else provider end,
      model = coalesce(model, v_model), needs_price = coalesce(model, v_model) is not null
   where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt and state = 'estimated' and ended_at is null
     and cost is null;
end $$;

-- With an attempt's end, or after it: writes what is said of its steps, estimates what nobody speaks of, and ends its rows. The
-- session's counters and the messages get what was reported. `p_succeeds`: the turn is complete by it. Answers how many rows
-- were newly reported.
create function holdfast.record_usage(p_tenant text, p_session text, p_user text, p_turn uuid, p_attempt int,
  p_outcome text, p_usage json, p_succeeds boolean default false) returns int language plpgsql as $$
declare v_old holdfast.usage[]; v_new holdfast.usage[]; v_at timestamptz; v_outcome text; v_rows int; v_input bigint;
  v_output bigint; v_model text; v_now timestamptz;
begin
  v_old := array(select u from holdfast.usage u where u.tenant_id = p_tenant and u.turn_id = p_turn
    order by u.attempt, u.step for no key update);
  perform holdfast.write_usage(p_tenant, p_session, p_user, p_turn, p_attempt, p_usage);
  perform holdfast.estimate_open(p_tenant, p_turn, p_attempt);
  perform holdfast.guess_model(p_tenant, p_user, p_turn, p_attempt);
  -- One moment, so that what ends at midnight is not of two days.
  v_now := clock_timestamp();
  -- What is told late ended with its attempt.
  select max(o.ended_at), max(o.outcome) into v_at, v_outcome from unnest(v_old) o where o.attempt = p_attempt;
  update holdfast.usage set ended_at = coalesce(v_at, v_now), outcome = coalesce(v_outcome, p_outcome)
   where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt and ended_at is null;
  if p_succeeds and not exists (select from unnest(v_old) o where o.succeeded_on is not null) then
    update holdfast.usage set succeeded_on = (v_now at time zone 'utc')::date
     where (tenant_id, turn_id, attempt, step) = (select u.tenant_id, u.turn_id, u.attempt, u.step from holdfast.usage u
       where u.tenant_id = p_tenant and u.turn_id = p_turn order by u.attempt desc, u.step desc limit 1);
  end if;
  v_new := array(select u from holdfast.usage u where u.tenant_id = p_tenant and u.turn_id = p_turn
    order by u.attempt, u.step);
  perform holdfast.fold_usage(v_old, v_new);
  select count(*)::int, coalesce(sum(n.input_tokens), 0), coalesce(sum(n.output_tokens), 0), max(n.model)
    into v_rows, v_input, v_output, v_model
    from unnest(v_new) n
   where n.attempt = p_attempt and n.state = 'reported' and n.step not in (select o.step from unnest(v_old) o
     where o.attempt = p_attempt and o.state = 'reported' and o.ended_at is not null);
  if v_rows > 0 then
    perform holdfast.count_in(p_tenant, p_session,
      (select audience from holdfast.turns where tenant_id = p_tenant and id = p_turn), 0, false, null, v_input, v_output,
      v_model);
  end if;
  -- What the message cost to read: the first step of the first attempt that reported, written once.
  update holdfast.messages m set input_tokens = u.input_tokens
    from holdfast.turns t, holdfast.usage u
   where t.tenant_id = p_tenant and t.id = p_turn
     and m.tenant_id = p_tenant and m.session_id = p_session and m.id = t.message_id and m.input_tokens is null
     and u.tenant_id = p_tenant and u.turn_id = p_turn and u.attempt = p_attempt and u.step = 0 and u.state = 'reported'
     and u.input_tokens is not null;
  -- Where the reply has its outcome already (it was stopped, and its provider's word comes late). The reply that the
  -- attempt wrote, of which it was the last: the turn's own may be that of a later round by now.
  update holdfast.messages m set output_tokens = (select sum(u.output_tokens) from holdfast.usage u
      where u.tenant_id = p_tenant and u.turn_id = p_turn and u.state = 'reported' and (u.attempt = p_attempt or u.attempt in (
        select a.attempt from holdfast.asks a where a.tenant_id = p_tenant and a.turn_id = p_turn and a.round = m.round
          and a.attempt < p_attempt)))
    from (select e.data ->> 'replyId' as id, max(e.attempt) as attempt from holdfast.events e
      where e.tenant_id = p_tenant and e.turn_id = p_turn and e.type = 'attempt.started' group by 1) r
   where v_rows > 0 and r.attempt = p_attempt
     and m.tenant_id = p_tenant and m.session_id = p_session and m.id = r.id
     and m.status in ('complete', 'failed', 'stopped');
  return v_rows;
end $$;

-- The checkpoint after a step, with what is said of the steps up to it; and the next one is opened. False: lost.
create function holdfast.checkpoint(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_checkpoint json,
  p_usage json, p_next_step int) returns boolean language plpgsql as $$
declare t holdfast.turns;
begin
  t := holdfast.held_turn(p_tenant, p_session, p_turn, p_attempt);
  if t.id is null then return false; end if;
  update holdfast.turns set checkpoint = p_checkpoint, updated_at = clock_timestamp()
   where tenant_id = p_tenant and id = p_turn;
  perform holdfast.write_usage(p_tenant, p_session, t.user_id, p_turn, p_attempt, p_usage);
  if p_next_step is not null then
    perform holdfast.open_usage(t, p_next_step, (p_checkpoint ->> 'nextIndex')::int);
  end if;
  return true;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- What each user has used, per day and model: the fold of the ledger, kept by what each change adds to it.
--
-- In parts, because a user's turns may end in many sessions at once, and one call may end turns of many users: a part that
-- somebody else is adding to is passed over, and another one taken or begun. So nobody waits here, and nothing can deadlock.
create table holdfast.usage_daily_parts (
  tenant_id text not null,
  user_id text not null,
  -- UTC, of the attempt's end; of `messages` and `replies`, that on which the turn first was complete.
  day date not null,
  -- '': not known.
  model text not null,
  part bigint generated always as identity,
  messages bigint not null default 0,
  replies bigint not null default 0,
  attempts bigint not null default 0,
  -- Steps that are estimated, and steps whose cost nobody knows.
  estimated bigint not null default 0,
  unpriced bigint not null default 0,
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  cached_input_tokens bigint not null default 0,
  reasoning_tokens bigint not null default 0,
  cost numeric not null default 0,
  -- The same of attempts that succeeded alone.
  attempts_succeeded bigint not null default 0,
  input_tokens_succeeded bigint not null default 0,
  output_tokens_succeeded bigint not null default 0,
  cached_input_tokens_succeeded bigint not null default 0,
  reasoning_tokens_succeeded bigint not null default 0,
  cost_succeeded numeric not null default 0,
  primary key (tenant_id, user_id, day, model, part)
) with (fillfactor = 70);
create index usage_daily_by_day on holdfast.usage_daily_parts (tenant_id, day);

-- The same of a whole tenant, as its budgets ask for it before each call of the model: to add up a month of 5,000 users there
-- took 117 ms, under the lock of the budget. In parts, too.
create table holdfast.usage_of_tenants (
  tenant_id text not null,
  day date not null,
  part bigint generated always as identity,
  -- Input and output together.
  tokens bigint not null default 0,
  cost numeric not null default 0,
  primary key (tenant_id, day, part)
) with (fillfactor = 70);

create view holdfast.usage_daily as
  select tenant_id, user_id, day, model, sum(messages)::bigint as messages, sum(replies)::bigint as replies,
      sum(attempts)::bigint as attempts, sum(estimated)::bigint as estimated, sum(unpriced)::bigint as unpriced,
      sum(input_tokens)::bigint as input_tokens, sum(output_tokens)::bigint as output_tokens,
      sum(cached_input_tokens)::bigint as cached_input_tokens, sum(reasoning_tokens)::bigint as reasoning_tokens,
      sum(cost) as cost, sum(attempts_succeeded)::bigint as attempts_succeeded,
      sum(input_tokens_succeeded)::bigint as input_tokens_succeeded,
      sum(output_tokens_succeeded)::bigint as output_tokens_succeeded,
      sum(cached_input_tokens_succeeded)::bigint as cached_input_tokens_succeeded,
      sum(reasoning_tokens_succeeded)::bigint as reasoning_tokens_succeeded, sum(cost_succeeded) as cost_succeeded
    from holdfast.usage_daily_parts group by tenant_id, user_id, day, model;

-- What one row of the ledger counts as, in the shape of a part. An attempt is counted by its first step.
create function holdfast.counts_of(u holdfast.usage) returns setof holdfast.usage_daily_parts language sql immutable as $$
  select u.tenant_id, u.user_id, (u.ended_at at time zone 'utc')::date, coalesce(u.model, ''), 0::bigint, 0::bigint, 0::bigint,
      a.n, (u.state = 'estimated')::int::bigint, (u.cost is null)::int::bigint,
      t.input, t.output, t.cached, t.reasoning, t.cost,
      a.n * s.ok, t.input * s.ok, t.output * s.ok, t.cached * s.ok, t.reasoning * s.ok, t.cost * s.ok
    from (select (u.step = 0)::int::bigint as n) a, (select (u.outcome = 'complete')::int::bigint as ok) s,
      (select coalesce(u.input_tokens, 0)::bigint as input, coalesce(u.output_tokens, 0)::bigint as output,
        coalesce(u.cached_input_tokens, 0)::bigint as cached, coalesce(u.reasoning_tokens, 0)::bigint as reasoning,
        coalesce(u.cost, 0) as cost) t
   where u.ended_at is not null
  union all
  select u.tenant_id, u.user_id, u.succeeded_on, coalesce(u.model, ''), 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
   where u.succeeded_on is not null
$$;

create function holdfast.fold_usage(p_old holdfast.usage[], p_new holdfast.usage[]) returns void language plpgsql as $$
declare d record; v_part bigint;
begin
  for d in
    select c.tenant_id, c.user_id, c.day, c.model, sum(x.sign * c.messages)::bigint as messages,
        sum(x.sign * c.replies)::bigint as replies, sum(x.sign * c.attempts)::bigint as attempts,
        sum(x.sign * c.estimated)::bigint as estimated, sum(x.sign * c.unpriced)::bigint as unpriced,
        sum(x.sign * c.input_tokens)::bigint as input_tokens, sum(x.sign * c.output_tokens)::bigint as output_tokens,
        sum(x.sign * c.cached_input_tokens)::bigint as cached_input_tokens,
        sum(x.sign * c.reasoning_tokens)::bigint as reasoning_tokens, sum(x.sign * c.cost) as cost,
        sum(x.sign * c.attempts_succeeded)::bigint as attempts_succeeded,
        sum(x.sign * c.input_tokens_succeeded)::bigint as input_tokens_succeeded,
        sum(x.sign * c.output_tokens_succeeded)::bigint as output_tokens_succeeded,
        sum(x.sign * c.cached_input_tokens_succeeded)::bigint as cached_input_tokens_succeeded,
        sum(x.sign * c.reasoning_tokens_succeeded)::bigint as reasoning_tokens_succeeded,
        sum(x.sign * c.cost_succeeded) as cost_succeeded
      -- Not each row with each other one: the end of a turn of 1,000 steps took a second by that.
      from (select -1 as sign, e.u from (select o as u from unnest(p_old) o except all select n from unnest(p_new) n) e
        union all
        select 1, e.u from (select n as u from unnest(p_new) n except all select o from unnest(p_old) o) e) x,
        holdfast.counts_of(x.u) c
     group by c.tenant_id, c.user_id, c.day, c.model
  loop
    select part into v_part from holdfast.usage_daily_parts where tenant_id = d.tenant_id and user_id = d.user_id
      and day = d.day and model = d.model limit 1 for no key update skip locked;
    if not found then
      insert into holdfast.usage_daily_parts (tenant_id, user_id, day, model) values (d.tenant_id, d.user_id, d.day, d.model)
        returning part into v_part;
    end if;
    update holdfast.usage_daily_parts set messages = messages + d.messages, replies = replies + d.replies,
        attempts = attempts + d.attempts, estimated = estimated + d.estimated, unpriced = unpriced + d.unpriced,
        input_tokens = input_tokens + d.input_tokens, output_tokens = output_tokens + d.output_tokens,
        cached_input_tokens = cached_input_tokens + d.cached_input_tokens,
        reasoning_tokens = reasoning_tokens + d.reasoning_tokens, cost = cost + d.cost,
        attempts_succeeded = attempts_succeeded + d.attempts_succeeded,
        input_tokens_succeeded = input_tokens_succeeded + d.input_tokens_succeeded,
        output_tokens_succeeded = output_tokens_succeeded + d.output_tokens_succeeded,
        cached_input_tokens_succeeded = cached_input_tokens_succeeded + d.cached_input_tokens_succeeded,
        reasoning_tokens_succeeded = reasoning_tokens_succeeded + d.reasoning_tokens_succeeded,
        cost_succeeded = cost_succeeded + d.cost_succeeded
     where tenant_id = d.tenant_id and user_id = d.user_id and day = d.day and model = d.model and part = v_part;
    continue when d.input_tokens + d.output_tokens = 0 and d.cost = 0;
    select part into v_part from holdfast.usage_of_tenants where tenant_id = d.tenant_id and day = d.day
     limit 1 for no key update skip locked;
    if not found then
      insert into holdfast.usage_of_tenants (tenant_id, day) values (d.tenant_id, d.day) returning part into v_part;
    end if;
    update holdfast.usage_of_tenants set tokens = tokens + d.input_tokens + d.output_tokens, cost = cost + d.cost
     where tenant_id = d.tenant_id and day = d.day and part = v_part;
  end loop;
end $$;

-- Costs of rows that were estimated where the prices were not at hand: [{tenantId, turnId, attempt, step, cost}], whose cost is
-- null where the app knows no price. What is locked is left for the next time, and a row that was reported since is as it is.
create function holdfast.price_usage(p_costs json) returns void language plpgsql as $$
declare c record; v_old holdfast.usage; v_new holdfast.usage;
begin
  for c in select * from json_to_recordset(p_costs) c("tenantId" text, "turnId" uuid, attempt int, step int, cost numeric)
  loop
    select * into v_old from holdfast.usage where tenant_id = c."tenantId" and turn_id = c."turnId"
      and attempt = c.attempt and step = c.step and needs_price for no key update skip locked;
    continue when not found;
    update holdfast.usage set cost = c.cost, needs_price = false where tenant_id = c."tenantId" and turn_id = c."turnId"
      and attempt = c.attempt and step = c.step returning * into v_new;
    perform holdfast.fold_usage(array[v_old], array[v_new]);
  end loop;
end $$;

-- The ledger folded anew. `usage_daily` is to be the same.
create view holdfast.usage_folded as
  select c.tenant_id, c.user_id, c.day, c.model,
      sum(c.messages)::bigint as messages,
      sum(c.replies)::bigint as replies,
      sum(c.attempts)::bigint as attempts,
      sum(c.estimated)::bigint as estimated,
      sum(c.unpriced)::bigint as unpriced,
      sum(c.input_tokens)::bigint as input_tokens,
      sum(c.output_tokens)::bigint as output_tokens,
      sum(c.cached_input_tokens)::bigint as cached_input_tokens,
      sum(c.reasoning_tokens)::bigint as reasoning_tokens,
      sum(c.cost) as cost,
      sum(c.attempts_succeeded)::bigint as attempts_succeeded,
      sum(c.input_tokens_succeeded)::bigint as input_tokens_succeeded,
      sum(c.output_tokens_succeeded)::bigint as output_tokens_succeeded,
      sum(c.cached_input_tokens_succeeded)::bigint as cached_input_tokens_succeeded,
      sum(c.reasoning_tokens_succeeded)::bigint as reasoning_tokens_succeeded,
      sum(c.cost_succeeded) as cost_succeeded
    from holdfast.usage u, holdfast.counts_of(u) c group by c.tenant_id, c.user_id, c.day, c.model;

-- Each figure in which they differ; of a whole tenant without a user. One statement, so both are of one moment.
create function holdfast.usage_differences() returns table (tenant_id text, user_id text, day date, model text, figure text,
  ledger numeric, daily numeric) language sql stable as $$
  select coalesce(f.tenant_id, d.tenant_id), coalesce(f.user_id, d.user_id), coalesce(f.day, d.day), coalesce(f.model, d.model),
      k.key, coalesce((to_jsonb(f) ->> k.key)::numeric, 0), coalesce((to_jsonb(d) ->> k.key)::numeric, 0)
    from holdfast.usage_folded f full join holdfast.usage_daily d
      on f.tenant_id = d.tenant_id and f.user_id = d.user_id and f.day = d.day and f.model = d.model,
      jsonb_object_keys(coalesce(to_jsonb(f), to_jsonb(d)) - '{tenant_id,user_id,day,model}'::text[]) k(key)
   where to_jsonb(f) is distinct from to_jsonb(d)
     and coalesce((to_jsonb(f) ->> k.key)::numeric, 0) <> coalesce((to_jsonb(d) ->> k.key)::numeric, 0)
  union all
  select tenant_id, null, day, null, figure, coalesce(f.value, 0), coalesce(d.value, 0)
    from (select f.tenant_id, f.day, x.figure, sum(x.value) as value from holdfast.usage_folded f,
        lateral (values ('tokens', (f.input_tokens + f.output_tokens)::numeric), ('cost', f.cost)) x(figure, value)
        group by 1, 2, 3) f
      full join (select d.tenant_id, d.day, x.figure, sum(x.value) as value from holdfast.usage_of_tenants d,
        lateral (values ('tokens', d.tokens::numeric), ('cost', d.cost)) x(figure, value) group by 1, 2, 3) d
      using (tenant_id, day, figure)
   where coalesce(f.value, 0) <> coalesce(d.value, 0)
   order by 1, 2, 3, 4, 5
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- A message and its reply that were written elsewhere, as the last of a conversation, for code that has written them into a
-- table of its own so far. Nobody was called for them here, so the ledger has nothing of them, nor have the daily figures. The
-- session is made where there is none. With the same ids again it changes nothing; answers the reply's id.
create function holdfast.insert_pair(p_tenant text, p_session text, p_user text, p_content text, p_reply_text text,
  p_model text, p_input_tokens int, p_output_tokens int, p_message text, p_reply text, p_created_at timestamptz) returns text
  language plpgsql as $$
declare v_seq int; v_turn uuid := gen_random_uuid(); v_hash text := md5(p_content || chr(1) || p_reply_text); m holdfast.messages;
begin
  if p_message !~ '^[A-Za-z0-9._:~-]{1,128}$' or p_reply !~ '^[A-Za-z0-9._:~-]{1,128}$' or p_session !~ '^[A-Za-z0-9._:~-]{1,128}$'
      or p_message = p_reply then
    raise exception 'ids must be 1 to 128 of A-Z a-z 0-9 . _ : ~ -, and those of message and reply must differ'
      using errcode = 'invalid_parameter_value';
  end if;
  if not exists (select from holdfast.sessions where tenant_id = p_tenant and id = p_session) then
    perform holdfast.create_session(p_tenant, p_session, p_user, null, '{}');
  end if;
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not holdfast.may_write(p_tenant, p_session, p_user) then
    raise exception 'session % is another user''s, or was deleted', p_session using errcode = 'insufficient_privilege';
  end if;
  select * into m from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if m.body_hash = v_hash and m.author = p_user and exists (select from holdfast.messages where tenant_id = p_tenant
      and session_id = p_session and id = p_reply and replies_to = p_message) then
    return p_reply;
  end if;
  select next_seq into v_seq from holdfast.sessions where tenant_id = p_tenant and id = p_session;
  insert into holdfast.messages (tenant_id, session_id, id, seq, told_seq, position, role, author, parts, status, parent, turn_id,
      body_hash, input_tokens, created_at, updated_at)
    values (p_tenant, p_session, p_message, v_seq, v_seq, v_seq, 'user', p_user,
      jsonb_build_array(jsonb_build_object('type', 'text', 'text', p_content)), 'complete',
      holdfast.tip_of(p_tenant, p_session, 'main'), v_turn, v_hash, p_input_tokens, p_created_at, p_created_at);
  insert into holdfast.messages (tenant_id, session_id, id, seq, told_seq, position, role, parts, status, replies_to, parent, round,
      turn_id, model, output_tokens, created_at, updated_at)
    values (p_tenant, p_session, p_reply, v_seq, v_seq, v_seq, 'assistant',
      jsonb_build_array(jsonb_build_object('type', 'text', 'text', p_reply_text)), 'complete', p_message, p_message, 1, v_turn,
      p_model, p_output_tokens, p_created_at, p_created_at);
  -- By its turn a message is edited and answered anew.
  insert into holdfast.turns (tenant_id, id, session_id, message_id, reply_id, user_id, position, state)
    values (p_tenant, v_turn, p_session, p_message, p_reply, p_user, v_seq, 'complete');
  perform holdfast.count_in(p_tenant, p_session, null, 2, true,
    nullif(left(trim(regexp_replace(left(p_reply_text, 4000), '\s+', ' ', 'g')), 140), ''), coalesce(p_input_tokens, 0),
    coalesce(p_output_tokens, 0), p_model);
  -- Clients load what is shown.
  perform holdfast.write_event(p_tenant, p_session, 'branch.selected', null,
    json_build_object('messageId', p_message, 'index', 0, 'count', 1));
  return p_reply;
end $$;
