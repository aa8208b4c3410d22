-- Several people in one session: the app's own events. The rules of 0001 hold: the session's lock first, decided in a later
-- statement, one call each.

-- Ids that events were published with, so that the same one is published once. It lives as long as its session.
create table holdfast.published (
  tenant_id text not null,
  session_id text not null,
  id text not null,
  -- Of its type, audience and data.
  hash text not null,
  seq int not null,
  primary key (tenant_id, session_id, id),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
);

-- An event of the app's, for all or an audience as in `events`. Outcomes: published,
-- same (this id with the same event: what is stored), conflict (with another), not_found.
create function holdfast.publish(p_tenant text, p_session text, p_type text, p_audience text, p_data json,
  p_id text, p_hash text) returns json language plpgsql as $$
declare p holdfast.published; v_seq int;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  select * into p from holdfast.published where tenant_id = p_tenant and session_id = p_session and id = p_id;
  if found and p.hash <> p_hash then return json_build_object('outcome', 'conflict'); end if;
  if found then return holdfast.answer('same', p_tenant, p_session, p.seq); end if;
  v_seq := holdfast.write_event(p_tenant, p_session, p_type, null, p_data, p_audience);
  insert into holdfast.published (tenant_id, session_id, id, hash, seq) values (p_tenant, p_session, p_id, p_hash, v_seq);
  return holdfast.answer('published', p_tenant, p_session, v_seq);
end $$;
