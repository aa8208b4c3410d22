-- Turns that wait for people: an attempt ends with questions (whether a call may run, or run again; what a client's own tool
-- answered),
-- and the turn goes on when all of them are answered, whoever answers, however late, whichever process is there then. The
-- rules of 0001 hold: the session's lock first, decided in a later statement, one call each.
--
-- What the reply says stands in the turn's checkpoint while it waits. An answer is written into it, and into the message:
-- so the next attempt starts from what people were shown, and from nothing that a client sent but the answer.

-- An object with other values for some of its keys, and without some. json, not jsonb: what is not changed stays as it came.
create function holdfast.changed_json(p_object json, p_changes json, p_without text[] default '{}') returns json
  language sql immutable parallel safe as $$
  select json_object_agg(key, value order by place) from (
    select key, value, ordinality as place from json_each(p_object) with ordinality
      where (p_changes -> key) is null and key <> all(p_without)
    union all
    select key, value, 1000000 + ordinality from json_each(p_changes) with ordinality) both_of
$$;

-- The parts with another state of this call, in their last step: providers that number the calls of a step use an id again.
create function holdfast.with_call_changed(p_parts json, p_call text, p_changes json, p_without text[]) returns json
  language sql immutable parallel safe as $$
  with part as materialized (select value, ordinality as place from json_array_elements(p_parts) with ordinality),
  step as (select coalesce(max(place) filter (where value ->> 'type' = 'step-start'), 0) as place from part)
  select coalesce(json_agg(case when part.place > step.place and part.value ->> 'toolCallId' = p_call
      then holdfast.changed_json(part.value, p_changes, p_without) else part.value end order by part.place), '[]')
    from part, step
$$;

-- The call in its last step.
create function holdfast.call_in(p_parts json, p_call text) returns json language sql immutable parallel safe as $$
  select value from json_array_elements(p_parts) with ordinality where value ->> 'toolCallId' = p_call
   order by ordinality desc limit 1
$$;

-- Ends an attempt whose reply cannot go on without answers. `p_asks` are [{kind, id, callId, name, inputHash, used?, max?, rule?}].
-- `p_checkpoint`: null keeps the one that is stored. `p_shown`: what is shown, where that is another thing. Neither a
-- failure nor a crash is counted, and crashes before it are forgotten: it got somewhere. Outcomes: waiting, lost,
-- mismatch. Asked again by the attempt whose answer was lost, it answers what it stored, however far the turn is by now.
create function holdfast.wait(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_next_index int,
  p_checkpoint json, p_model text, p_asks json, p_expires_ms bigint, p_holds_lane boolean, p_usage json,
  p_shown jsonb default null) returns json
  language plpgsql as $$
declare t holdfast.turns; m holdfast.messages; v_seq int;
begin
  t := holdfast.locked_turn(p_tenant, p_session, p_turn);
  if t.id is null then return json_build_object('outcome', 'lost'); end if;
  select max(seq) into v_seq from holdfast.events
   where tenant_id = p_tenant and turn_id = p_turn and type = 'turn.waiting' and attempt = p_attempt;
  if v_seq is not null then return holdfast.answer('waiting', p_tenant, p_session, v_seq); end if;
  if not holdfast.is_held(t, p_attempt) then
    return holdfast.lost(t, p_attempt, p_usage);
  end if;
  if p_next_index <> (select coalesce(sum(n), 0) from holdfast.chunks
      where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt) then
    return json_build_object('outcome', 'mismatch');
  end if;
  perform holdfast.record_usage(p_tenant, p_session, t.user_id, p_turn, p_attempt,
    case when p_asks -> 0 ->> 'name' = 'progress' and p_asks -> 0 ->> 'kind' = 'budget' then 'failed' else 'complete' end,
    p_usage);
  update holdfast.turns set state = 'waiting', holds_lane = p_holds_lane, open = false, lease_until = null, runner = null,
      due_at = null, checkpoint = coalesce(p_checkpoint, checkpoint),
      -- A checkpoint of this attempt holds them itself.
      tokens = tokens + case when p_checkpoint is null then holdfast.tokens_in(p_usage) else 0 end, crashes = 0, best_steps = 0, best_chunks = 0,
      sweep_at = clock_timestamp() + interval '60 s', updated_at = clock_timestamp()
   where tenant_id = p_tenant and id = p_turn returning * into t;
  update holdfast.messages set parts = coalesce(p_shown, (p_checkpoint -> 'parts')::jsonb),
      metadata = coalesce(nullif((p_checkpoint -> 'metadata')::jsonb, 'null'), metadata),
      model = coalesce(p_model, model), status = 'streaming', updated_at = clock_timestamp()
   where tenant_id = p_tenant and session_id = p_session and id = t.reply_id returning * into m;
  insert into holdfast.asks (tenant_id, session_id, turn_id, round, step, call_id, kind, id, name, input_hash, used, max, rule,
      attempt, seq, expires_at)
    select p_tenant, p_session, p_turn, t.round, coalesce((t.checkpoint ->> 'step')::int, 0), a."callId", a.kind, a.id, a.name,
      a."inputHash", a.used, a.max, a.rule, p_attempt, s.next_seq, clock_timestamp() + make_interval(secs => p_expires_ms / 1000.0)
    from json_to_recordset(p_asks) a("callId" text, kind text, id text, name text, "inputHash" text, used numeric,
        max numeric, rule jsonb),
      holdfast.sessions s where s.tenant_id = p_tenant and s.id = p_session;
  -- Those behind it go on meanwhile, where it lets them.
  perform holdfast.promote(p_tenant, p_session, t.lane);
  v_seq := holdfast.write_event(p_tenant, p_session, 'turn.waiting', t,
    json_build_object('turn', holdfast.turn_json(t), 'message', holdfast.message_json(m)));
  return holdfast.answer('waiting', p_tenant, p_session, v_seq);
end $$;

-- Of the question about a budget: a yes lets the turn go on, and that budget counts from here; a no stops it with what is
-- shown. Expects what `take_answer` does, which it is a case of.
create function holdfast.take_budget_answer(t holdfast.turns, a holdfast.asks, p_answer jsonb, p_by text) returns int
  language plpgsql as $$
declare m holdfast.messages; v_message json;
begin
  if p_answer -> 'approved' = 'true' then
    update holdfast.turns set state = 'queued', updated_at = clock_timestamp(),
        steps_from = case a.name when 'steps' then a.step else steps_from end,
        tokens = case a.name when 'tokens' then 0 else tokens end,
        checkpoint = case when a.name = 'tokens' and checkpoint is not null
          then holdfast.changed_json(checkpoint, '{"tokens": 0}') else checkpoint end,
        failures = case a.name when 'progress' then 0 else failures end
     where tenant_id = t.tenant_id and id = t.id returning * into t;
    perform holdfast.promote(t.tenant_id, t.session_id, t.lane);
    return holdfast.write_event(t.tenant_id, t.session_id, 'approval.answered', t,
      (jsonb_build_object('turn', holdfast.turn_json(t), 'messageId', t.reply_id, 'kind', a.kind, 'approvalId', a.id,
        'by', p_by) || p_answer)::json);
  end if;
  select * into m from holdfast.messages
   where tenant_id = t.tenant_id and session_id = t.session_id and id = t.reply_id;
  v_message := holdfast.settle(t, 'stopped', m.parts, null, null, null, null, m.parts <> '[]');
  perform holdfast.renew_preview(t.tenant_id, t.session_id, t.audience);
  return holdfast.write_event(t.tenant_id, t.session_id, 'message.stopped', t,
    -- By the reason clients decide what they show, so a person's words are no reason.
    (jsonb_build_object('userMessageId', t.message_id, 'message', v_message, 'by', p_by, 'reason', 'budget')
      || case when p_answer ? 'reason' then jsonb_build_object('said', p_answer -> 'reason') else '{}' end)::json);
end $$;

-- Writes an answer where it belongs, and lets the turn go on if it was the last one. Expects session and turn to be locked
-- by the caller, and the question to be open. Answers the seq of its event.
create function holdfast.take_answer(t holdfast.turns, a holdfast.asks, p_state text, p_answer jsonb, p_by text) returns int
  language plpgsql as $$
declare v_part json; v_changes json; v_without text[] := '{}'; v_checkpoint json;
begin
  update holdfast.asks set state = p_state, answer = p_answer, answered_by = p_by, answered_at = clock_timestamp()
   where tenant_id = a.tenant_id and turn_id = a.turn_id and round = a.round and step = a.step and call_id = a.call_id
     and attempt = a.attempt;
  if a.kind = 'budget' then return holdfast.take_budget_answer(t, a, p_answer, p_by); end if;
  v_part := holdfast.call_in(t.checkpoint -> 'parts', a.call_id);
  if a.kind = 'uncertain' and p_answer -> 'approved' <> 'true' then
    -- It is not run. A failed call has no approval that was refused: the AI SDK takes none.
    v_without := '{approval}';
    v_changes := json_build_object('state', 'output-error', 'errorText', 'Interrupted: it is not known whether it ran.'
      || case when p_state = 'answered' and p_answer ? 'reason' then ' ' || (p_answer ->> 'reason') else '' end);
  elsif a.kind <> 'tool' then
    v_changes := json_build_object('state', 'approval-responded', 'approval', (v_part -> 'approval')::jsonb || p_answer);
  elsif p_answer ? 'output' then
    v_changes := json_build_object('state', 'output-available', 'output', p_answer -> 'output');
  else
    v_changes := json_build_object('state', 'output-error', 'errorText', p_answer -> 'errorText');
  end if;
  v_checkpoint := holdfast.changed_json(t.checkpoint,
    json_build_object('parts', holdfast.with_call_changed(t.checkpoint -> 'parts', a.call_id, v_changes, v_without)));
  update holdfast.messages set parts = (v_checkpoint -> 'parts')::jsonb, updated_at = clock_timestamp()
   where tenant_id = t.tenant_id and session_id = t.session_id and id = t.reply_id;
  update holdfast.turns set checkpoint = v_checkpoint, updated_at = clock_timestamp(),
      state = case when exists (select from holdfast.asks o where o.tenant_id = t.tenant_id and o.turn_id = t.id
        and o.round = t.round and o.state = 'open') then 'waiting' else 'queued' end
   where tenant_id = t.tenant_id and id = t.id returning * into t;
  if t.state = 'queued' then
    perform holdfast.promote(t.tenant_id, t.session_id, t.lane);
  end if;
  return holdfast.write_event(t.tenant_id, t.session_id, 'approval.answered', t,
    (jsonb_build_object('turn', holdfast.turn_json(t), 'messageId', t.reply_id, 'kind', a.kind, 'toolCallId', a.call_id,
        'approved', case a.kind when 'tool' then to_jsonb(p_answer ? 'output') else p_answer -> 'approved' end,
        'by', p_by, 'part', holdfast.changed_json(v_part, v_changes, v_without))
      || case when a.kind <> 'tool' then jsonb_build_object('approvalId', a.id) else '{}' end
      || case when p_answer ? 'reason' then jsonb_build_object('reason', p_answer -> 'reason') else '{}' end)::json);
end $$;

-- An answer of a user who may write here, or (null) of the server. It is taken once: the first one counts. `p_kind`: tool, or
-- approval for every question that is answered by yes or no. `p_turn`: which
-- turn's question, where several have one of this id, and `p_attempt` which attempt's: a provider that numbers its calls
-- uses an id again in the next step. Else the one that waits, or waited last. Outcomes: answered; same
-- (this is what was answered); not_waiting (something else was, or nobody is asked any more); rate_limited (to let a reply
-- go on beyond a budget counts as a send of the user's); not_found; forbidden.
create function holdfast.answer_ask(p_tenant text, p_session text, p_user text, p_kind text, p_id text, p_turn uuid,
  p_attempt int, p_answer jsonb, p_by text, p_sends_max int) returns json language plpgsql as $$
declare t holdfast.turns; a holdfast.asks; v_allowance jsonb; v_seq int;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  -- Among those that the user may see: a question of somebody else's turn is none, and hides none.
  select o.* into a from holdfast.asks o join holdfast.turns w on w.tenant_id = o.tenant_id and w.id = o.turn_id
   where o.tenant_id = p_tenant and o.session_id = p_session and o.id = p_id
     and (o.kind = 'tool') = (p_kind = 'tool') and (p_turn is null or o.turn_id = p_turn)
     and (p_attempt is null or o.attempt = p_attempt)
     and holdfast.may_see(w.audience, p_user)
   order by (o.state = 'open') desc, o.seq desc limit 1;
  select * into t from holdfast.turns where tenant_id = p_tenant and id = a.turn_id
    and (p_user is null or holdfast.may_write(p_tenant, p_session, p_user))
    for no key update;
  if t.id is null then return holdfast.refusal(p_tenant, p_session, p_user); end if;
  if a.state = 'answered' and a.answer = p_answer then
    return json_build_object('outcome', 'same', 'messageId', t.message_id);
  end if;
  if a.state <> 'open' or t.state <> 'waiting' or t.stopping is not null then
    return json_build_object('outcome', 'not_waiting', 'messageId', t.message_id);
  end if;
  if a.kind = 'budget' and p_answer -> 'approved' = 'true' then
    if not holdfast.may_go_on(a, p_user) then
      return json_build_object('outcome', 'forbidden', 'mayGoOn', a.rule -> 'mayGoOn');
    end if;
    v_allowance := holdfast.take_send(p_tenant, p_user, p_sends_max);
    if not (v_allowance -> 'taken')::boolean then
      return json_build_object('outcome', 'rate_limited', 'messageId', t.message_id, 'allowance', v_allowance);
    end if;
  end if;
  v_seq := holdfast.take_answer(t, a, 'answered', p_answer, p_by);
  return json_build_object('outcome', 'answered', 'messageId', t.message_id, 'allowance', v_allowance,
    'event', holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0);
end $$;

-- Questions that nobody has answered in time are answered by the server, with these: the model is told. Beyond a budget
-- nothing goes on without somebody: the turn fails, by what `p_failures` has for that budget. One that cannot be answered
-- keeps none of the others waiting: it comes with its `error`. For the sweeper.
create function holdfast.expire_asks(p_limit int, p_refusal jsonb, p_no_result jsonb, p_failures jsonb) returns setof json
  language plpgsql as $$
declare cand record; t holdfast.turns; a holdfast.asks; v_seq int;
begin
  for cand in select tenant_id, session_id, turn_id, round, step, call_id, attempt from holdfast.asks
     where state = 'open' and expires_at <= now() order by expires_at limit p_limit
  loop
    begin
      perform 1 from holdfast.sessions where tenant_id = cand.tenant_id and id = cand.session_id
        for no key update skip locked;
      continue when not found;
      select * into t from holdfast.turns where tenant_id = cand.tenant_id and id = cand.turn_id
        and state = 'waiting' and stopping is null for no key update skip locked;
      continue when not found;
      select * into a from holdfast.asks where tenant_id = cand.tenant_id and turn_id = cand.turn_id and round = cand.round
        and step = cand.step and call_id = cand.call_id and attempt = cand.attempt and state = 'open' and expires_at <= now();
      continue when not found;
      if a.kind = 'budget' then
        v_seq := holdfast.settle_failed(t, (select parts from holdfast.messages where tenant_id = t.tenant_id
          and session_id = t.session_id and id = t.reply_id), null, null,
          coalesce(p_failures -> a.name, p_failures -> 'tokens'));
      else
        v_seq := holdfast.take_answer(t, a, 'expired', case a.kind when 'tool' then p_no_result else p_refusal end, 'server');
      end if;
      return next json_build_object('tenantId', t.tenant_id, 'sessionId', t.session_id,
        'event', holdfast.events_of(t.tenant_id, t.session_id, array[v_seq]) -> 0);
    exception when others then
      return next json_build_object('tenantId', cand.tenant_id, 'sessionId', cand.session_id, 'error', sqlerrm);
    end;
  end loop;
end $$;
