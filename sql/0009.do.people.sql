-- Several people in one session: members, invitations, and the app's own events. The rules of 0001 hold: the session's lock first, decided in a later
-- statement, one call each.

-- Ids that events were published with, so that the same one is published once: for 30 days, then they are taken away.
create table holdfast.published (
  tenant_id text not null,
  session_id text not null,
  id text not null,
  -- Of its type, audience and data.
  hash text not null,
  seq int not null,
  at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, id),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
);
create index published_at on holdfast.published (at);

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

-- Whoever has an invitation becomes a member. It is stored nowhere, only its hash is.
create table holdfast.invites (
  tenant_id text not null,
  session_id text not null,
  id uuid not null,
  hash bytea not null,
  -- Nobody is made an owner by a link.
  role text not null check (role in ('member', 'reader')),
  uses_max int not null,
  used int not null default 0,
  created_by text not null,
  -- The session's next one when it was made.
  seq int not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  revoked boolean not null default false,
  primary key (tenant_id, session_id, id),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
);
create unique index invites_by_hash on holdfast.invites (tenant_id, hash);

create function holdfast.is_good(i holdfast.invites) returns boolean language sql stable as $$
  select not i.revoked and i.used < i.uses_max and i.expires_at > clock_timestamp()
$$;

-- Who was a member and went, for as long as an invitation may be good that was made before.
create table holdfast.departures (
  tenant_id text not null,
  session_id text not null,
  user_id text not null,
  -- Of `member.left`.
  seq int not null,
  -- By another: no invitation from before lets them in again.
  removed boolean not null,
  at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, user_id),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
);

-- ---------------------------------------------------------------------------------------------------------------
-- Members. `p_by` is who asks, and is an owner of the session; null: the server. What was lost is asked again with the same
-- arguments: a member who is there, or is so already, is answered as they are.

create function holdfast.member_json(m holdfast.members) returns json language sql stable parallel safe as $$
  select json_build_object('userId', m.user_id, 'role', m.role, 'delivered', m.delivered_seq, 'read', m.read_seq)
$$;

-- Locks the session and says why not: null where the user may change who its members are.
create function holdfast.refused_as_owner(p_tenant text, p_session text, p_by text) returns json language plpgsql as $$
declare v_role text;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  if p_by is null then return null; end if;
  select role into v_role from holdfast.members
   where tenant_id = p_tenant and session_id = p_session and user_id = p_by;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  if v_role <> 'owner' then return json_build_object('outcome', 'forbidden'); end if;
  return null;
end $$;

-- Expects the session's row to be locked by the caller. They owe nothing: what was said before is read, and that they once went
-- is forgotten. Outcomes: added, same, full.
create function holdfast.join_session(p_tenant text, p_session text, p_user text, p_role text, p_by text, p_members_max int)
  returns json language plpgsql as $$
declare m holdfast.members; v_seq int;
begin
  select * into m from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if found then return json_build_object('outcome', 'same', 'member', holdfast.member_json(m)); end if;
  if (select count(*) from holdfast.members where tenant_id = p_tenant and session_id = p_session) >= p_members_max then
    return json_build_object('outcome', 'full');
  end if;
  select next_seq into v_seq from holdfast.sessions where tenant_id = p_tenant and id = p_session;
  insert into holdfast.members (tenant_id, session_id, user_id, role, delivered_seq, read_seq)
    values (p_tenant, p_session, p_user, p_role, v_seq, v_seq) returning * into m;
  delete from holdfast.departures where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  perform holdfast.write_event(p_tenant, p_session, 'member.joined', null,
    json_build_object('member', holdfast.member_json(m), 'by', p_by));
  return json_build_object('outcome', 'added', 'member', holdfast.member_json(m),
    'event', holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0);
end $$;

-- Outcomes: added, same (with the role that they have), full, not_found, forbidden.
create function holdfast.add_member(p_tenant text, p_session text, p_by text, p_user text, p_role text, p_members_max int)
  returns json language plpgsql as $$
declare v_refused json;
begin
  v_refused := holdfast.refused_as_owner(p_tenant, p_session, p_by);
  if v_refused is not null then return v_refused; end if;
  return holdfast.join_session(p_tenant, p_session, p_user, p_role, coalesce(p_by, 'server'), p_members_max);
end $$;

-- What somebody has given out who may not any more. With a null user: all of the session.
create function holdfast.revoke_invites_of(p_tenant text, p_session text, p_user text) returns void language sql as $$
  update holdfast.invites set revoked = true
   where tenant_id = p_tenant and session_id = p_session and not revoked and (p_user is null or created_by = p_user)
$$;

create function holdfast.is_last_owner(m holdfast.members) returns boolean language sql stable as $$
  select m.role = 'owner' and not exists (select from holdfast.members o where o.tenant_id = m.tenant_id
    and o.session_id = m.session_id and o.user_id <> m.user_id and o.role = 'owner')
$$;

-- Outcomes: changed, same, last_owner (a session has one), no_member, not_found, forbidden.
create function holdfast.change_member(p_tenant text, p_session text, p_by text, p_user text, p_role text) returns json
  language plpgsql as $$
declare m holdfast.members; v_refused json; v_seq int;
begin
  v_refused := holdfast.refused_as_owner(p_tenant, p_session, p_by);
  if v_refused is not null then return v_refused; end if;
  select * into m from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if not found then return json_build_object('outcome', 'no_member'); end if;
  if m.role = p_role then return json_build_object('outcome', 'same', 'member', holdfast.member_json(m)); end if;
  if holdfast.is_last_owner(m) then return json_build_object('outcome', 'last_owner'); end if;
  update holdfast.members set role = p_role
   where tenant_id = p_tenant and session_id = p_session and user_id = p_user returning * into m;
  if p_role <> 'owner' then perform holdfast.revoke_invites_of(p_tenant, p_session, p_user); end if;
  v_seq := holdfast.write_event(p_tenant, p_session, 'member.changed', null,
    json_build_object('member', holdfast.member_json(m), 'by', coalesce(p_by, 'server')));
  return json_build_object('outcome', 'changed', 'member', holdfast.member_json(m),
    'event', holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0);
end $$;

-- An owner removes anybody, and everybody themselves. What the one who goes has asked for is not answered any more: their turns
-- are marked with it, to be stopped by anybody. Nor is an invitation good that they made, or where nobody is left any of the
-- session's. Outcomes: removed, same (they went before: what is still to be told and stopped), last_owner (of others who are
-- there), no_member, not_found, forbidden.
create function holdfast.remove_member(p_tenant text, p_session text, p_by text, p_user text) returns json
  language plpgsql as $$
declare m holdfast.members; d holdfast.departures; v_refused json; v_turns uuid[]; v_marked json; v_seq int;
begin
  v_refused := holdfast.refused_as_owner(p_tenant, p_session, p_by);
  if v_refused is not null and p_by is distinct from p_user then return v_refused; end if;
  select * into m from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if not found then
    select * into d from holdfast.departures where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
    if not found then return coalesce(v_refused, json_build_object('outcome', 'no_member')); end if;
    select coalesce(json_agg(json_build_object('messageId', message_id, 'round', round) order by position desc), '[]')
      into v_marked from holdfast.turns t where t.tenant_id = p_tenant and t.session_id = p_session
        and holdfast.asked_by(t) = p_user and t.stopping is not null and t.stopping_reason = 'removed';
    return json_build_object('outcome', 'same', 'interrupted', v_marked,
      'event', holdfast.events_of(p_tenant, p_session, array[d.seq]) -> 0);
  end if;
  if holdfast.is_last_owner(m) and exists (select from holdfast.members where tenant_id = p_tenant and session_id = p_session
      and user_id <> p_user) then
    return json_build_object('outcome', 'last_owner');
  end if;
  v_turns := array(select id from holdfast.turns t where t.tenant_id = p_tenant and t.session_id = p_session
      and holdfast.asked_by(t) = p_user and holdfast.is_live(t) and t.stopping is null order by id for no key update);
  with marked as (
    update holdfast.turns set stopping = coalesce(p_by, 'server'), stopping_reason = 'removed', updated_at = clock_timestamp()
     where tenant_id = p_tenant and id = any(v_turns) returning message_id, round, position)
  select coalesce(json_agg(json_build_object('messageId', message_id, 'round', round) order by position desc), '[]')
    into v_marked from marked;
  delete from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  v_seq := holdfast.write_event(p_tenant, p_session, 'member.left', null, json_build_object('userId', p_user,
    'by', coalesce(p_by, 'server'), 'reason', case when p_by = p_user then 'left' else 'removed' end));
  delete from holdfast.departures where tenant_id = p_tenant and session_id = p_session
    and at < clock_timestamp() - interval '30 days';
  insert into holdfast.departures (tenant_id, session_id, user_id, seq, removed)
    values (p_tenant, p_session, p_user, v_seq, p_by is distinct from p_user);
  perform holdfast.revoke_invites_of(p_tenant, p_session, case when exists (select from holdfast.members
    where tenant_id = p_tenant and session_id = p_session) then p_user end);
  return json_build_object('outcome', 'removed', 'interrupted', v_marked,
    'event', holdfast.events_of(p_tenant, p_session, array[v_seq]) -> 0);
end $$;

-- For lists that are open, which look for who has left of late: a wakeup may be lost.
create index events_of_leaving on holdfast.events (at) where type = 'member.left';

-- ---------------------------------------------------------------------------------------------------------------
-- Invitations: whoever has one becomes a member.

create function holdfast.invite_json(i holdfast.invites) returns json language sql stable as $$
  select json_build_object('id', i.id, 'role', i.role, 'uses', i.uses_max, 'used', i.used, 'createdBy', i.created_by,
    'createdAt', holdfast.iso(i.created_at), 'expiresAt', holdfast.iso(i.expires_at))
$$;

-- Of those that are not good any more as many are kept, the latest: whoever comes with one is told that it was. Outcomes: invited,
-- full (so many are good), not_found, forbidden.
create function holdfast.invite(p_tenant text, p_session text, p_by text, p_id uuid, p_hash bytea, p_role text, p_uses int,
  p_expires_ms bigint, p_invites_max int) returns json language plpgsql as $$
declare i holdfast.invites; v_refused json;
begin
  v_refused := holdfast.refused_as_owner(p_tenant, p_session, p_by);
  if v_refused is not null then return v_refused; end if;
  if (select count(*) from holdfast.invites x where x.tenant_id = p_tenant and x.session_id = p_session
      and x.id <> p_id and holdfast.is_good(x)) >= p_invites_max then
    return json_build_object('outcome', 'full');
  end if;
  delete from holdfast.invites where tenant_id = p_tenant and session_id = p_session and id in (
    select x.id from holdfast.invites x where x.tenant_id = p_tenant and x.session_id = p_session
        and not holdfast.is_good(x) order by x.seq desc, x.created_at desc, x.id offset p_invites_max);
  insert into holdfast.invites (tenant_id, session_id, id, hash, role, uses_max, created_by, seq, expires_at)
    values (p_tenant, p_session, p_id, p_hash, p_role, p_uses, coalesce(p_by, 'server'),
      (select next_seq from holdfast.sessions where tenant_id = p_tenant and id = p_session),
      clock_timestamp() + make_interval(secs => p_expires_ms / 1000.0))
    on conflict (tenant_id, session_id, id) do update set hash = invites.hash returning * into i;
  return json_build_object('outcome', 'invited', 'invite', holdfast.invite_json(i));
end $$;

-- Outcomes: revoked (also where it was), not_found, forbidden.
create function holdfast.revoke_invite(p_tenant text, p_session text, p_by text, p_id uuid) returns json
  language plpgsql as $$
declare v_refused json;
begin
  v_refused := holdfast.refused_as_owner(p_tenant, p_session, p_by);
  if v_refused is not null then return v_refused; end if;
  update holdfast.invites set revoked = true where tenant_id = p_tenant and session_id = p_session and id = p_id;
  return json_build_object('outcome', case when found then 'revoked' else 'not_found' end);
end $$;

-- Outcomes: added, same (a member already: it is not used up), gone (revoked, used up, too late, made before another removed
-- them, or nobody is there), full, not_found.
create function holdfast.accept_invite(p_tenant text, p_user text, p_hash bytea, p_members_max int) returns json
  language plpgsql as $$
declare i holdfast.invites; v_session text; v_joined json;
begin
  select session_id into v_session from holdfast.invites where tenant_id = p_tenant and hash = p_hash;
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = v_session for no key update;
  select * into i from holdfast.invites where tenant_id = p_tenant and hash = p_hash;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  if not exists (select from holdfast.members where tenant_id = p_tenant and session_id = i.session_id and user_id = p_user)
      and (not holdfast.is_good(i) or exists (select from holdfast.departures d where d.tenant_id = p_tenant
          and d.session_id = i.session_id and d.user_id = p_user and d.removed and d.seq >= i.seq)
        or not exists (select from holdfast.members where tenant_id = p_tenant and session_id = i.session_id)) then
    return json_build_object('outcome', 'gone');
  end if;
  v_joined := holdfast.join_session(p_tenant, i.session_id, p_user, i.role, i.created_by, p_members_max);
  update holdfast.invites set used = used + 1
   where tenant_id = p_tenant and session_id = i.session_id and id = i.id and v_joined ->> 'outcome' = 'added';
  return (v_joined::jsonb || jsonb_build_object('sessionId', i.session_id))::json;
end $$;
