-- Control: a new round, another branch, another text for what waits, handing a message to the turn that runs.
-- The rules of 0001 hold: the session's lock first, decided in a later statement, one call each.

-- Begins a new round of a turn that has its outcome, with a new reply beside the old one, which stays stored. The new one is
-- shown, or (`p_instead`) takes the old one's place, shown or not. `p_by` asks for it; null: the operator, for its author.
-- Expects the session's row to be locked by the caller. Answers the seq of `turn.queued`.
create function holdfast.begin_round(t holdfast.turns, p_by text, p_reply text, p_instead boolean, p_expires_ms bigint)
  returns int language plpgsql as $$
declare v_seq int; v_turn holdfast.turns; v_old holdfast.messages; v_new holdfast.messages;
begin
  select * into v_old from holdfast.messages
   where tenant_id = t.tenant_id and session_id = t.session_id and id = t.reply_id;
  select next_seq into v_seq from holdfast.sessions where tenant_id = t.tenant_id and id = t.session_id;
  -- It was imported (0015), and is in line with what is said here from now on.
  if t.position < 0 then t.position := v_seq; end if;
  insert into holdfast.messages (tenant_id, session_id, id, seq, position, role, parts, status, lane, audience, replies_to,
      parent, chosen, shown, round, turn_id)
    values (t.tenant_id, t.session_id, p_reply, v_seq, t.position, 'assistant', '[]', 'pending', t.lane, t.audience,
      t.message_id, t.message_id, v_old.chosen, false, t.round + 1, t.id) returning * into v_new;
  update holdfast.messages set error = null, updated_at = clock_timestamp()
   where tenant_id = t.tenant_id and session_id = t.session_id and id = t.message_id;
  update holdfast.turns set state = 'queued', position = t.position, round = round + 1, round_by = nullif(p_by, user_id), reply_id = p_reply,
      failures = 0, crashes = 0, best_steps = 0, best_chunks = 0, checkpoint = null, steps_from = 0, tokens = 0, due_at = null, stopping = null, stopping_reason = null,
      expires_at = clock_timestamp() + make_interval(secs => p_expires_ms / 1000.0), updated_at = clock_timestamp()
   where tenant_id = t.tenant_id and id = t.id;
  if p_instead then
    update holdfast.messages set chosen = false
     where tenant_id = t.tenant_id and session_id = t.session_id and id = v_old.id;
    perform holdfast.number_alternatives(v_new);
    perform holdfast.show_lane(t.tenant_id, t.session_id, t.lane);
  else
    perform holdfast.choose(t.tenant_id, t.session_id, p_reply);
  end if;
  perform holdfast.promote(t.tenant_id, t.session_id, t.lane);
  select * into v_turn from holdfast.turns where tenant_id = t.tenant_id and id = t.id;
  return holdfast.write_event(t.tenant_id, t.session_id, 'turn.queued', v_turn,
    json_build_object('turn', holdfast.turn_json(v_turn), 'shown', not p_instead or v_old.shown));
end $$;

-- The turn of a message (the user's, or a reply to it), locked after its session; null where there is none, or none that the
-- user may see and act on (`refusal` says which). A null user is the operator, who may.
create function holdfast.locked_turn_of(p_tenant text, p_session text, p_message text, p_user text)
  returns holdfast.turns language plpgsql as $$
declare t holdfast.turns;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  select * into t from holdfast.turns where tenant_id = p_tenant and session_id = p_session
    and message_id = (select coalesce(m.replies_to, m.id) from holdfast.messages m
      where m.tenant_id = p_tenant and m.session_id = p_session and m.id = p_message)
    and (p_user is null or holdfast.may_see(audience, p_user) and holdfast.may_write(p_tenant, p_session, p_user))
    for no key update;
  return t;
end $$;

-- Its message was withdrawn, or handed to another turn: there is nothing to be answered by it any more.
create function holdfast.is_gone(t holdfast.turns) returns boolean language sql stable as $$
  select t.steered or exists (select from holdfast.messages where tenant_id = t.tenant_id and session_id = t.session_id
    and id = t.message_id and withdrawn)
$$;

-- A turn that failed or was stopped is tried again, in its place: where the reply is not shown, because another one was
-- selected since, neither is the new one, for people go on where they are. `p_round`: only if that is its round, so that
-- a late or repeated command is harmless. It counts as a send of the user's. Outcomes: queued, same (it changes nothing: another
-- round, or one that runs or is complete), rounds (no more are allowed), rate_limited, gone (withdrawn, or handed to
-- another turn), not_found, forbidden.
create function holdfast.retry(p_tenant text, p_session text, p_user text, p_message text, p_round int, p_reply text,
  p_rounds_max int, p_expires_ms bigint, p_sends_max int, p_more jsonb default null) returns json language plpgsql as $$
declare t holdfast.turns; v_allowance jsonb; v_old text; v_seq int;
begin
  t := holdfast.locked_turn_of(p_tenant, p_session, p_message, p_user);
  if t.id is null then return holdfast.refusal(p_tenant, p_session, p_user); end if;
  if holdfast.is_gone(t) then return json_build_object('outcome', 'gone'); end if;
  if t.state not in ('failed', 'stopped') or p_round <> t.round then return json_build_object('outcome', 'same'); end if;
  if t.round >= p_rounds_max then return json_build_object('outcome', 'rounds'); end if;
  v_allowance := holdfast.take_send(p_tenant, p_user, p_sends_max, p_more);
  if not (v_allowance -> 'taken')::boolean then
    return json_build_object('outcome', 'rate_limited', 'allowance', v_allowance);
  end if;
  -- What was said after the reply that failed stays, after the one that takes its place.
  v_old := t.reply_id;
  update holdfast.messages set parent = p_reply
   where tenant_id = p_tenant and session_id = p_session and parent = v_old;
  -- So does what was handed to the round that failed: the new one is told it from the start.
  update holdfast.turns set reply_id = p_reply
   where tenant_id = p_tenant and session_id = p_session and steered and reply_id = v_old;
  v_seq := holdfast.begin_round(t, p_user, p_reply, true, p_expires_ms);
  return json_build_object('outcome', 'queued', 'event', holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0,
    'allowance', v_allowance);
end $$;

-- Whether a message is in the branch that goes on from another one.
create function holdfast.comes_after(p_tenant text, p_session text, p_message text, p_before text) returns boolean
  language sql stable as $$
  with recursive way as (
    select id, parent from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message
    union all
    select p.id, p.parent from way w join holdfast.messages p on p.tenant_id = p_tenant and p.session_id = p_session
      and p.id = w.parent where w.id <> p_before)
  select exists (select from way where id = p_before)
$$;

-- Whether a turn runs, waits or is queued in the branch that begins with this message. Looked for from those turns, of which
-- there are few, upwards: a branch may be as long as the conversation.
create function holdfast.is_branch_live(p_tenant text, p_session text, p_message text) returns boolean language sql stable
  as $$
  select exists (select from holdfast.turns t where t.tenant_id = p_tenant and t.session_id = p_session
    and t.lane = (select lane from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message)
    and holdfast.is_live(t) and holdfast.comes_after(p_tenant, p_session, t.message_id, p_message))
$$;

-- Another reply to a message, beside the one that is there. `p_reply` is the caller's own new id: a repeated call finds
-- it. What was said after the old reply stays in its branch. It counts as a send. Outcomes: queued, same, busy (something
-- of that branch is still to be answered), rounds, conflict (the id is another message's), rate_limited, gone, not_found,
-- forbidden.
create function holdfast.regenerate(p_tenant text, p_session text, p_user text, p_message text, p_reply text,
  p_rounds_max int, p_expires_ms bigint, p_sends_max int, p_more jsonb default null) returns json language plpgsql as $$
declare t holdfast.turns; v_there holdfast.messages; v_allowance jsonb; v_seq int;
begin
  t := holdfast.locked_turn_of(p_tenant, p_session, p_message, p_user);
  if t.id is null then return holdfast.refusal(p_tenant, p_session, p_user); end if;
  select * into v_there from holdfast.messages
   where tenant_id = p_tenant and session_id = p_session and id = p_reply;
  if found then
    return json_build_object('outcome', case when v_there.replies_to = t.message_id then 'same' else 'conflict' end);
  end if;
  if holdfast.is_gone(t) then return json_build_object('outcome', 'gone'); end if;
  if holdfast.is_branch_live(p_tenant, p_session, t.message_id) then
    return json_build_object('outcome', 'busy');
  end if;
  if t.round >= p_rounds_max then return json_build_object('outcome', 'rounds'); end if;
  v_allowance := holdfast.take_send(p_tenant, p_user, p_sends_max, p_more);
  if not (v_allowance -> 'taken')::boolean then
    return json_build_object('outcome', 'rate_limited', 'allowance', v_allowance);
  end if;
  v_seq := holdfast.begin_round(t, p_user, p_reply, false, p_expires_ms);
  return json_build_object('outcome', 'queued', 'event', holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0,
    'allowance', v_allowance);
end $$;

-- Another text for a message. One that nobody has begun to answer gets it in its place and keeps its id, at most
-- `p_edits_max` times; beside any other a new message begins a branch of its own. Both count as a message that is sent.
-- `p_new` is the caller's new id: a repeated call finds by it what it made, or that it has changed the message in its place.
-- Outcomes: changed, created, same (with the message that has the text now), busy, conflict, another_author, edits (no
-- more are kept), rate_limited, gone, not_found, forbidden.
create function holdfast.edit(p_tenant text, p_session text, p_user text, p_message text, p_new text, p_turn uuid,
  p_reply text, p_parts jsonb, p_metadata jsonb, p_body_hash text, p_preview text, p_expires_ms bigint,
  p_edits_max int, p_sends_max int, p_more jsonb default null) returns json language plpgsql as $$
declare t holdfast.turns; m holdfast.messages; v_there holdfast.messages; v_in_place boolean; v_allowance jsonb; v_seq int;
  v_created json;
begin
  t := holdfast.locked_turn_of(p_tenant, p_session, p_message, p_user);
  if t.id is null then return holdfast.refusal(p_tenant, p_session, p_user); end if;
  select * into m from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if m.author is distinct from p_user then return json_build_object('outcome', 'another_author'); end if;
  if m.edits ? p_new then
    return json_build_object('outcome', case when m.edits ->> p_new = p_body_hash then 'same' else 'conflict' end,
      'messageId', p_message);
  end if;
  select * into v_there from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_new;
  if found then
    return json_build_object('outcome', case when v_there.body_hash = p_body_hash and v_there.author = p_user
      and v_there.parent = m.parent then 'same' else 'conflict' end, 'messageId', p_new);
  end if;
  if holdfast.is_gone(t) then return json_build_object('outcome', 'gone'); end if;

  v_in_place := t.state = 'queued' and t.attempt = 0 and t.round = 1 and t.stopping is null;
  if v_in_place and (select count(*) from jsonb_object_keys(m.edits)) >= p_edits_max then
    return json_build_object('outcome', 'edits');
  end if;
  if not v_in_place and holdfast.is_branch_live(p_tenant, p_session, p_message) then
    return json_build_object('outcome', 'busy');
  end if;
  v_allowance := holdfast.take_send(p_tenant, p_user, p_sends_max,
    case when v_in_place then null else p_more end);
  if not (v_allowance -> 'taken')::boolean then
    return json_build_object('outcome', 'rate_limited', 'messageId', p_new, 'allowance', v_allowance);
  end if;

  if v_in_place then
    update holdfast.messages set parts = p_parts, metadata = p_metadata, updated_at = clock_timestamp(),
        edits = edits || jsonb_build_object(p_new, p_body_hash)
     where tenant_id = p_tenant and session_id = p_session and id = p_message returning * into m;
    perform holdfast.renew_preview(p_tenant, p_session, m.audience);
    v_seq := holdfast.write_event(p_tenant, p_session, 'message.changed', t,
      json_build_object('message', holdfast.message_json(m)));
    return json_build_object('outcome', 'changed', 'messageId', p_message,
      'event', holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0, 'allowance', v_allowance);
  end if;

  v_created := holdfast.create_turn(p_tenant, p_session, p_user, p_new, p_turn, p_reply, p_parts, p_metadata, p_body_hash,
    p_preview, m.lane, m.parent, p_message, p_expires_ms, false);
  return json_build_object('outcome', 'created', 'messageId', p_new, 'event', v_created -> 'event',
    'allowance', v_allowance);
end $$;

-- Which of its alternatives is shown: a stored choice, the same on all devices. Outcomes: selected, same, not_found,
-- forbidden.
create function holdfast.select_branch(p_tenant text, p_session text, p_user text, p_message text) returns json
  language plpgsql as $$
declare m holdfast.messages; v_seq int;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  select * into m from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message
    and not withdrawn and holdfast.may_see(audience, p_user) and holdfast.may_write(p_tenant, p_session, p_user);
  if not found then return holdfast.refusal(p_tenant, p_session, p_user); end if;
  if m.shown then return json_build_object('outcome', 'same'); end if;
  perform holdfast.choose(p_tenant, p_session, p_message);
  select * into m from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message;
  v_seq := holdfast.write_event(p_tenant, p_session, 'branch.selected', (select t from holdfast.turns t
    where t.tenant_id = p_tenant and t.id = m.turn_id), json_build_object('messageId', m.id,
    'index', m.branch_index, 'count', m.branch_count), m.audience);
  return holdfast.answer('selected', p_tenant, p_session, v_seq);
end $$;

-- Whether a message comes next after a reply, in the branch that goes on from it: nothing stands between them but what was
-- handed over.
create function holdfast.comes_next(p_tenant text, p_session text, p_message text, p_reply text) returns boolean
  language sql stable as $$
  with recursive way as (
    select parent from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message
    union all
    select p.parent from way w
      join holdfast.messages p on p.tenant_id = p_tenant and p.session_id = p_session and p.id = w.parent
      join holdfast.turns t on t.tenant_id = p_tenant and t.id = p.turn_id and t.message_id = p.id and t.steered
     where w.parent <> p_reply)
  select exists (select from way where parent = p_reply)
$$;

-- Hands the messages that were sent to steer it to the turn that runs, at a border of two of its steps: their own turns
-- end as stopped, and their reply is this turn's. Not those of another branch: they were said to another conversation.
-- Nor those behind a message that is not: what was said first would be answered last, and not be told of what was said
-- after it. Answers all messages that were handed to this round so far, so that it may be asked again, and the new ones'
-- events; nothing where the attempt is not the turn's any more.
create function holdfast.take_steering(p_tenant text, p_session text, p_turn uuid, p_attempt int) returns json
  language plpgsql as $$
declare t holdfast.turns; e holdfast.turns; v_message json; v_seqs int[] := '{}';
begin
  t := holdfast.locked_turn(p_tenant, p_session, p_turn);
  if t.id is null or not holdfast.is_held(t, p_attempt) then
    return json_build_object('messages', '[]'::json, 'events', '[]'::json);
  end if;
  for e in select * from (
      select * from holdfast.turns where tenant_id = p_tenant and session_id = p_session and lane = t.lane and steers
        and state = 'queued' and attempt = 0 and stopping is null order by id for no key update) c
    order by position
  loop
    -- Asked for each when those before it are handed over.
    continue when not holdfast.comes_next(p_tenant, p_session, e.message_id, t.reply_id);
    v_message := holdfast.settle(e, 'stopped', '[]', null, null, null, null, false);
    update holdfast.turns set steered = true, reply_id = t.reply_id where tenant_id = p_tenant and id = e.id;
    update holdfast.messages set withdrawn = true, chosen = false, shown = false
     where tenant_id = p_tenant and session_id = p_session and id = e.reply_id;
    update holdfast.messages set parent = e.message_id
     where tenant_id = p_tenant and session_id = p_session and parent = e.reply_id;
    v_seqs := v_seqs || holdfast.write_event(p_tenant, p_session, 'message.stopped', e, json_build_object(
      'userMessageId', e.message_id, 'message', v_message, 'by', e.user_id, 'reason', 'steered', 'replyId', t.reply_id));
  end loop;
  return json_build_object(
    'messages', coalesce((select json_agg(json_build_object('id', m.id, 'parts', m.parts, 'metadata', m.metadata)
        order by m.position) from holdfast.turns s join holdfast.messages m on m.tenant_id = s.tenant_id
        and m.session_id = s.session_id and m.id = s.message_id
      where s.tenant_id = p_tenant and s.session_id = p_session and s.steered and s.reply_id = t.reply_id), '[]'),
    'events', coalesce(holdfast.events_of(p_tenant, p_session, v_seqs), '[]'));
end $$;
