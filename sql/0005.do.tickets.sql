-- Tickets: how a browser that signs in by a header opens a WebSocket, to which it can give no header. Each is good once,
-- for half a minute, for the user who asked for it, and where a page asked, for its origin.

create table holdfast.tickets (
  -- Of the ticket, which is stored nowhere.
  hash bytea not null,
  tenant_id text not null,
  user_id text not null,
  -- That of who asked, for the limits of what the socket is used for. Null: none.
  plan text,
  -- Null: the request had none, so it was no page's, and whatever may open a socket may bring it.
  origin text,
  -- Until when who asked is known, in milliseconds since 1970: the socket ends then, too. Null: for good.
  principal_expires_ms double precision,
  expires_at timestamptz not null,
  -- The hash first: whoever brings a ticket is nobody, and of no tenant, before it was looked up.
  primary key (hash, tenant_id)
);
create index tickets_of_user on holdfast.tickets (tenant_id, user_id);
create index tickets_expired on holdfast.tickets (expires_at);

-- Answers until when it is good. Null: the user has `p_max` that are good and not used. Some more, where they ask at the same
-- time on several connections: the bound is not worth a lock. Of guests it bounds little, who may be somebody else with each
-- request: what they leave goes with the sweep after it expired.
create function holdfast.issue_ticket(p_hash bytea, p_tenant text, p_user text, p_origin text,
  p_principal_expires_ms double precision, p_lasts_ms int, p_max int,
  p_plan text) returns timestamptz language plpgsql as $$
declare v_expires timestamptz := clock_timestamp() + make_interval(secs => p_lasts_ms / 1000.0);
begin
  if (select count(*) from holdfast.tickets where tenant_id = p_tenant and user_id = p_user
      and expires_at > clock_timestamp()) >= p_max then
    return null;
  end if;
  insert into holdfast.tickets (hash, tenant_id, user_id, plan, origin, principal_expires_ms, expires_at)
    values (p_hash, p_tenant, p_user, p_plan, p_origin, p_principal_expires_ms, v_expires);
  return v_expires;
end $$;
