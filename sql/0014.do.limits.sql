-- Limits: how many turns without an outcome a user has.

create index turns_of_user on holdfast.turns (tenant_id, (coalesce(round_by, user_id)))
  where state in ('queued', 'running', 'waiting');

-- Those that are being stopped count no more. Asked under the lock of the user's row, after which no other begins.
create function holdfast.open_turns_of(p_tenant text, p_user text, p_without uuid[]) returns int language sql stable as $$
  select count(*)::int from holdfast.turns t
   where t.tenant_id = p_tenant and coalesce(t.round_by, t.user_id) = p_user and t.state in ('queued', 'running', 'waiting')
     and t.stopping is null and t.id <> all(p_without)
$$;
