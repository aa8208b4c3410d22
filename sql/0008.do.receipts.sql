-- How far a member's devices have got, and how far its user has read.

-- Seqs of events; null: nothing is said of it. They only grow, and what was read was delivered. It takes the member's row
-- alone, last of all, and no session's: whoever reads along holds up nobody who writes. Outcomes: stored (`moved`: it is more
-- than was known), ahead (the log does not go so far), not_found.
create function holdfast.receive(p_tenant text, p_session text, p_user text, p_delivered int, p_read int) returns json
  language plpgsql as $$
declare m holdfast.members; v_moved boolean;
begin
  if greatest(p_delivered, p_read) >= (select next_seq from holdfast.sessions s
      join holdfast.members o on o.tenant_id = s.tenant_id and o.session_id = s.id and o.user_id = p_user
      where s.tenant_id = p_tenant and s.id = p_session) then
    return json_build_object('outcome', 'ahead');
  end if;
  update holdfast.members set read_seq = greatest(read_seq, p_read),
      delivered_seq = greatest(delivered_seq, p_delivered, p_read)
   where tenant_id = p_tenant and session_id = p_session and user_id = p_user
     and (p_read > read_seq or greatest(p_delivered, p_read) > delivered_seq)
   returning * into m;
  v_moved := found;
  if not v_moved then
    select * into m from holdfast.members where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
    if not found then return json_build_object('outcome', 'not_found'); end if;
  end if;
  return json_build_object('outcome', 'stored', 'moved', v_moved, 'delivered', m.delivered_seq, 'read', m.read_seq,
    'unread', holdfast.unread_of(m));
end $$;
