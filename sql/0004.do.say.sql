-- What the app's own code does with the server's rights: the assistant says something by itself, and a session gets
-- another title or other metadata. The rules of 0001 hold: the session's lock first, decided in a later statement, one
-- call each.

-- Null for what was said without a turn. `body_hash` is then on an assistant's row, too.
alter table holdfast.messages alter column turn_id drop not null;

-- The assistant says something that answers nobody: a message, complete at once, and no turn. It stands after everything
-- that was accepted into its lane before it, also where replies to that are still to be written: its position is its
-- event's seq, and its parent the end of the branch that is shown. So turns that were accepted before are never told it,
-- whenever they are claimed, and turns after it are. (Before the running reply it would be told to a turn that is tried
-- again, and not to its first attempt.) Outcomes: said, same (this id with the same body: what is stored), conflict
-- (with another), not_found.
create function holdfast.say(p_tenant text, p_session text, p_message text, p_parts jsonb, p_metadata jsonb,
  p_body_hash text, p_preview text, p_lane text) returns json language plpgsql as $$
declare m holdfast.messages; v_seq int; v_parent text; v_audience text := holdfast.audience_of(p_lane);
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  select * into m from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if found then
    if m.turn_id is not null or m.body_hash is distinct from p_body_hash or m.lane <> p_lane then
      return json_build_object('outcome', 'conflict');
    end if;
    return json_build_object('outcome', 'same', 'seq', m.seq, 'message', holdfast.message_json(m));
  end if;
  v_parent := holdfast.tip_of(p_tenant, p_session, p_lane);
  perform holdfast.count_in(p_tenant, p_session, v_audience, 1, p_preview is not null, p_preview);
  select next_seq into v_seq from holdfast.sessions where tenant_id = p_tenant and id = p_session;
  insert into holdfast.messages (tenant_id, session_id, id, seq, told_seq, position, role, parts, metadata, status, lane,
      audience, parent, body_hash)
    values (p_tenant, p_session, p_message, v_seq, v_seq, v_seq, 'assistant', p_parts, p_metadata, 'complete', p_lane,
      v_audience, v_parent, p_body_hash)
    returning * into m;
  v_seq := holdfast.write_event(p_tenant, p_session, 'message.said', null,
    json_build_object('message', holdfast.message_json(m)), v_audience);
  return json_build_object('outcome', 'said', 'seq', v_seq, 'message', holdfast.message_json(m),
    'event', holdfast.answer('', p_tenant, p_session, v_seq) -> 'event');
end $$;

-- Another title, other metadata: what is a key of `p_changes`. Outcomes: updated, not_found.
create function holdfast.update_session(p_tenant text, p_session text, p_changes jsonb) returns json
  language plpgsql as $$
declare s holdfast.sessions; v_seq int;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  update holdfast.sessions set updated_at = clock_timestamp(),
      title = case when p_changes ? 'title' then p_changes ->> 'title' else title end,
      metadata = coalesce(p_changes -> 'metadata', metadata)
   where tenant_id = p_tenant and id = p_session returning * into s;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  -- The event is for every member: what each has not read is not in it.
  v_seq := holdfast.write_event(p_tenant, p_session, 'session.updated', null,
    json_build_object('session', holdfast.session_json(s, 0, null)));
  return json_build_object('outcome', 'updated', 'session', holdfast.session_json(s, null, holdfast.all_asides_of(s)),
    'event', holdfast.answer('', p_tenant, p_session, v_seq) -> 'event');
end $$;

-- With the owner's right. Outcomes: deleted, not_found.
create function holdfast.delete_session(p_tenant text, p_session text) returns text language plpgsql as $$
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not found then return 'not_found'; end if;
  perform holdfast.erase_session(p_tenant, p_session);
  return 'deleted';
end $$;
