-- Tool calls: that a call is about to run is stored before it runs, and what came of it after. A call that an earlier
-- attempt finished is answered from here; of one that it began and did not finish nobody knows whether it ran.
--
-- With each of the two the turn's checkpoint moves on, into the middle of a step: a takeover then keeps the step, with its
-- text and its calls as they stand (`base` of its `attempt.started`).

create table holdfast.tool_calls (
  tenant_id text not null,
  session_id text not null,
  turn_id uuid not null,
  round int not null,
  -- Steps of the round that were finished before the one that it is of.
  step int not null,
  -- The provider's own: some number their calls anew in each step.
  call_id text not null,
  name text not null,
  -- Of the input in canonical form.
  input_hash text not null,
  state text not null check (state in ('begun', 'done', 'failed')),
  -- The attempt that began it last.
  attempt int not null,
  -- json, not jsonb: it is given back as it came. Swept when its round is over.
  output json,
  begun_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz,
  primary key (tenant_id, turn_id, round, step, call_id),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade,
  constraint ended_has_its_time check ((state = 'begun') = (ended_at is null))
);
create index tool_calls_of_session on holdfast.tool_calls (tenant_id, session_id);

-- The attempt, if it is the turn's and may still do something. Like an append it takes the turn's row only; it waits for
-- it, because a tool call can.
create function holdfast.held_turn(p_tenant text, p_session text, p_turn uuid, p_attempt int) returns holdfast.turns
  language plpgsql as $$
declare t holdfast.turns;
begin
  select * into t from holdfast.turns where tenant_id = p_tenant and id = p_turn and session_id = p_session
    for no key update;
  if t.attempt = p_attempt and t.state = 'running' and t.stopping is null then return t; end if;
  return null;
end $$;

-- What was said last of a call that an attempt began and left without a result. Null: nobody was asked about that time.
create function holdfast.may_run_again(c holdfast.tool_calls) returns boolean language sql stable as $$
  select a.answer -> 'approved' = 'true' from holdfast.asks a
   where a.tenant_id = c.tenant_id and a.turn_id = c.turn_id and a.round = c.round and a.step = c.step
     and a.call_id = c.call_id and a.kind = 'uncertain' and a.attempt > c.attempt and a.answer is not null
   order by a.attempt desc limit 1
$$;

-- Outcomes: begun (run it now), done (its output, without running), failed (so it ended in an earlier attempt), uncertain (an
-- earlier attempt began it, or another call had its place), refused (a person was asked about the call, and has not
-- approved it, or not with this input), lost. A call that is uncertain runs once more where a person said so, or the app
-- (`p_again`).
-- Asked again by the attempt that began it, whose answer was lost, it is begun.
create function holdfast.begin_call(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_step int, p_call text,
  p_name text, p_input_hash text, p_again boolean, p_lease_ms int, p_checkpoint json) returns json language plpgsql as $$
declare t holdfast.turns; c holdfast.tool_calls; a holdfast.asks; v_again boolean;
begin
  t := holdfast.held_turn(p_tenant, p_session, p_turn, p_attempt);
  if t.id is null then return json_build_object('outcome', 'lost'); end if;
  select * into c from holdfast.tool_calls where tenant_id = p_tenant and turn_id = p_turn and round = t.round
    and step = p_step and call_id = p_call;
  -- What was asked last counts: an earlier question about the call may have been answered otherwise. Not that about a
  -- budget: it is of no call, and a call's id may be as empty.
  select * into a from holdfast.asks o where o.tenant_id = p_tenant and o.turn_id = p_turn and o.round = t.round
      and o.step = p_step and o.call_id = p_call and o.kind in ('approval', 'tool')
   order by o.attempt desc limit 1;
  if c.call_id is null and a.id is not null and (a.kind = 'tool' or a.answer -> 'approved' is distinct from 'true'
      or a.name <> p_name or a.input_hash <> p_input_hash) then
    return json_build_object('outcome', 'refused');
  end if;
  if c.call_id is null then
    insert into holdfast.tool_calls (tenant_id, session_id, turn_id, round, step, call_id, name, input_hash, state, attempt)
      values (p_tenant, p_session, p_turn, t.round, p_step, p_call, p_name, p_input_hash, 'begun', p_attempt);
  elsif c.input_hash <> p_input_hash or c.name <> p_name then
    return json_build_object('outcome', 'uncertain');
  elsif c.state <> 'begun' then
    return json_build_object('outcome', c.state, 'output', c.output);
  elsif c.attempt <> p_attempt then
    v_again := holdfast.may_run_again(c);
    if not v_again then return json_build_object('outcome', 'refused'); end if;
    if v_again is null and not p_again then return json_build_object('outcome', 'uncertain'); end if;
    update holdfast.tool_calls set attempt = p_attempt, begun_at = clock_timestamp() where tenant_id = p_tenant
      and turn_id = p_turn and round = t.round and step = p_step and call_id = p_call;
  end if;
  -- With a whole lease from here on: who begins it may trust that nobody else does for as long.
  update holdfast.turns set checkpoint = p_checkpoint, updated_at = clock_timestamp(),
      lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0))
   where tenant_id = p_tenant and id = p_turn;
  return json_build_object('outcome', 'begun', 'isFirst', c.call_id is null);
end $$;

-- Outcomes: stored, lost. Asked again it changes nothing. What the model is called for next is opened in the ledger: who called
-- the tool waits for this, and calls the model after it.
create function holdfast.end_call(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_step int, p_call text,
  p_state text, p_output json, p_checkpoint json, p_next_step int) returns json language plpgsql as $$
declare t holdfast.turns;
begin
  t := holdfast.held_turn(p_tenant, p_session, p_turn, p_attempt);
  if t.id is null then return json_build_object('outcome', 'lost'); end if;
  update holdfast.tool_calls set state = p_state, output = p_output, ended_at = clock_timestamp()
   where tenant_id = p_tenant and turn_id = p_turn and round = t.round and step = p_step and call_id = p_call
     and state = 'begun' and attempt = p_attempt;
  update holdfast.turns set checkpoint = p_checkpoint, updated_at = clock_timestamp()
   where tenant_id = p_tenant and id = p_turn;
  if p_next_step is not null then
    perform holdfast.open_usage(t, p_next_step, (p_checkpoint ->> 'nextIndex')::int);
  end if;
  return json_build_object('outcome', 'stored');
end $$;
