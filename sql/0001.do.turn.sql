-- The durable turn: sessions with one append-only log each, turns, chunks, ledger.
--
-- Three rules hold for everything below (they were each broken on purpose and failed without them):
--   * Lock first, decide in a later statement. Each statement of a volatile function has its own snapshot, so what
--     a function reads after `for no key update` is the state as of the lock.
--   * Lock order: the session, then turns, then everything else. Appending takes turn rows only.
--   * A transition is one call. A process that is paused holds no lock, because the server ends the call without it.

create schema if not exists holdfast;

-- One row. `epoch` names this log: cursors carry it, and it changes when the database was restored to another past.
create table holdfast.meta (
  only_row boolean primary key default true check (only_row),
  epoch text not null,
  system_identifier text not null,
  timeline int not null,
  -- What notifications are sealed with: any role that may connect could read and send them otherwise.
  wakeup_key text not null default replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''),
  -- No runner claims anything while it is set.
  paused boolean not null default false
);

create table holdfast.sessions (
  tenant_id text not null,
  id text not null,
  next_seq int not null default 1,
  title text,
  metadata jsonb not null default '{}',
  message_count int not null default 0,
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  last_preview text,
  -- The seq that told it: of two previews the later one is shown.
  preview_seq int not null default 0,
  last_model text,
  model_seq int not null default 0,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, id)
) with (fillfactor = 80);

-- What of a session one user alone sees, counted beside what all see: of their private lane. With it whatever is told of the
-- session, when it changed last included, is another thing to its user than to the others.
create table holdfast.asides (
  tenant_id text not null,
  session_id text not null,
  user_id text not null,
  message_count int not null default 0,
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  last_preview text,
  preview_seq int not null default 0,
  last_model text,
  model_seq int not null default 0,
  updated_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, user_id),
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade
) with (fillfactor = 80);

-- Ids of deleted sessions, and nothing else of them. Such an id is not used again: a cursor of the old log would fit the
-- new one, and its holder would miss what stands before it.
create table holdfast.deleted_sessions (
  tenant_id text not null,
  id text not null,
  deleted_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, id)
);

create table holdfast.members (
  tenant_id text not null,
  session_id text not null,
  user_id text not null,
  role text not null check (role in ('owner', 'member', 'reader')),
  delivered_seq int not null default 0,
  read_seq int not null default 0,
  muted boolean not null default false,
  joined_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, user_id)
) with (fillfactor = 80);
create index members_of_user on holdfast.members (tenant_id, user_id);

create table holdfast.messages (
  tenant_id text not null,
  session_id text not null,
  id text not null,
  -- The seq of the event that created it; a user's message and its first reply share one.
  seq int not null,
  -- The seq of the event that told it whole: a user's message's own, a reply's outcome's (null before).
  told_seq int,
  -- The order in which the prompt is built: that of the turn, the reply after its message.
  position int not null,
  role text not null check (role in ('user', 'assistant')),
  author text,
  parts jsonb not null,
  metadata jsonb,
  status text not null check (status in ('pending', 'streaming', 'complete', 'failed', 'stopped')),
  error jsonb,
  lane text not null default 'main',
  audience text,
  replies_to text,
  -- The message before it in its branch: a user's message's is the reply before it ('': the first of its lane), a
  -- reply's is its user's message. Messages with one parent are alternatives, of which one is chosen; shown are those
  -- that chosen ones lead to. What was withdrawn is no alternative, and never shown.
  parent text not null,
  chosen boolean not null default true,
  shown boolean not null default true,
  withdrawn boolean not null default false,
  branch_index int not null default 0,
  branch_count int not null default 1,
  round int,
  turn_id uuid not null,
  -- What a repeated send is compared with; on user rows only.
  body_hash text,
  -- Of each edit that changed it in its place: the id that it was asked with, and the hash of its body.
  edits jsonb not null default '{}',
  -- The message that it is another text of, where it began a branch beside that one.
  edit_of text,
  model text,
  input_tokens int,
  -- Of all steps together, and a reply reports as many as it likes: the sum need not be an int.
  output_tokens bigint,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, id),
  constraint input_tokens_on_user_rows_only check (input_tokens is null or role = 'user'),
  constraint output_tokens_on_assistant_rows_only check (output_tokens is null or role = 'assistant'),
  constraint user_rows_are_complete check (role = 'assistant' or status = 'complete')
);
create index messages_in_order on holdfast.messages (tenant_id, session_id, position, role);
create index messages_told on holdfast.messages (tenant_id, session_id, told_seq) where told_seq is not null;
create index messages_of_parent on holdfast.messages (tenant_id, session_id, parent);

create table holdfast.turns (
  tenant_id text not null,
  id uuid not null,
  session_id text not null,
  message_id text not null,
  reply_id text not null,
  user_id text not null,
  -- Who asked for its round, where that is another than the author.
  round_by text,
  -- The seq of the event that accepted it, hence unique and rising within the session.
  position int not null,
  lane text not null default 'main',
  audience text,
  holds_lane boolean not null default true,
  -- It may be handed to the turn that runs before it, at a border of two of its steps.
  steers boolean not null default false,
  -- It was: its state is `stopped`, and `reply_id` is the other turn's reply.
  steered boolean not null default false,
  state text not null check (state in ('queued', 'running', 'waiting', 'complete', 'failed', 'stopped')),
  -- Counts up over all rounds and is never reused: it is the fence, and it keys chunks and ledger.
  attempt int not null default 0,
  round int not null default 1,
  -- True from an attempt's start to an outcome or a wait: its chunks are part of the log.
  open boolean not null default false,
  -- Attempts of this round that a provider's error ended.
  failures int not null default 0,
  -- Takeovers in a row that got no further than `best_steps`, or within that step than twice `best_chunks`.
  crashes int not null default 0,
  best_steps int not null default 0,
  best_chunks int not null default 0,
  -- Set when a stop could not be completed at once: who asked, and why. Nothing is appended, finished or claimed any
  -- more.
  stopping text,
  stopping_reason text,
  lease_until timestamptz,
  runner text,
  -- Which of its runner's claims took it: so what a claim took whose answer was lost is found again.
  claim int,
  -- Null behind another turn of its lane; else when it may run.
  due_at timestamptz,
  -- Null once begun.
  expires_at timestamptz,
  -- What the next attempt starts from: {attempt, step, isOpen, nextIndex, parts, metadata, told, forClients, tokens}.
  checkpoint json,
  -- Its budgets count from where the round began, or somebody let it go on: finished steps before that, and tokens since, of
  -- attempts that have ended. (The checkpoint knows those of one that died.)
  steps_from int not null default 0,
  tokens bigint not null default 0,
  -- When its chunks may be swept.
  sweep_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  -- The id first: what looks a turn up by it needs nothing else, whatever the planner knows of the table.
  primary key (id, tenant_id)
) with (fillfactor = 70);
create unique index turn_of_message on holdfast.turns (tenant_id, session_id, message_id);
create index turns_due on holdfast.turns (due_at) where state = 'queued' and due_at is not null;
create index turns_leased on holdfast.turns (lease_until) where state = 'running';
create index turns_of_lane on holdfast.turns (tenant_id, session_id, lane, position)
  where state in ('queued', 'running', 'waiting');
create index turns_blocked on holdfast.turns (tenant_id, session_id, lane, position)
  where state = 'queued' and due_at is null;
create index turns_open on holdfast.turns (tenant_id, session_id, position) where open;
create index turns_expiring on holdfast.turns (expires_at) where expires_at is not null;
create index turns_to_sweep on holdfast.turns (sweep_at) where sweep_at is not null;
create index turns_failed on holdfast.turns (updated_at, id) where state = 'failed';
create index turns_stopping on holdfast.turns (updated_at) where stopping is not null;
-- The safety net, not the mechanism: two turns of a lane never hold it at once.
create unique index one_turn_holds_a_lane on holdfast.turns (tenant_id, session_id, lane)
  where state = 'running' or (state = 'waiting' and holds_lane);

-- What a waiting turn waits for: an answer to each of these. Of a call of the step that the reply stands at an attempt asks
-- one thing; a later one may ask another. About a budget it asks alone.
create table holdfast.asks (
  tenant_id text not null,
  session_id text not null,
  turn_id uuid not null,
  round int not null,
  -- Steps of the round that were finished before the one that the call is of.
  step int not null,
  call_id text not null,
  -- approval: whether the call may run. tool: the call is a client's to run, and its result is asked for. uncertain: whether
  -- it may run again, because an attempt died while it ran. budget: whether the reply may go on beyond one; it is of no call,
  -- and call_id and input_hash are empty.
  kind text not null check (kind in ('approval', 'tool', 'uncertain', 'budget')),
  -- What an answer names: the approval's id, one of our own (uncertain, budget), or the call's.
  id text not null,
  -- The tool's, or which budget: steps, tokens, progress, or the id of one of the option `limits`.
  name text not null,
  -- Of the input in canonical form: what runs is what was shown.
  input_hash text not null,
  -- Of a budget: how much is used, and how much there is.
  used numeric,
  max numeric,
  -- Where it is one of the option `limits`: {per, key, every?, measure, max, mayGoOn, renewsAt?}, see 0014.
  rule jsonb,
  -- The attempt that ended with it, and the seq of its `turn.waiting`.
  attempt int not null,
  seq int not null,
  -- closed: the turn has its outcome, and nobody is asked any more.
  state text not null default 'open' check (state in ('open', 'answered', 'expired', 'closed')),
  -- {approved, reason?}, or {output} or {errorText}.
  answer jsonb,
  answered_by text,
  asked_at timestamptz not null default clock_timestamp(),
  answered_at timestamptz,
  expires_at timestamptz not null,
  primary key (tenant_id, turn_id, round, step, call_id, attempt),
  -- Deleted with it. Who asks holds the session's lock, so the key's own lock waits for nobody.
  foreign key (tenant_id, session_id) references holdfast.sessions (tenant_id, id) on delete cascade,
  constraint budget_says_how_much check ((kind = 'budget') = (used is not null and max is not null)),
  constraint answered_has_its_answer check ((state in ('answered', 'expired')) = (answer is not null and answered_at is not null))
);
create index asks_by_id on holdfast.asks (tenant_id, session_id, id);
create index asks_expiring on holdfast.asks (expires_at) where state = 'open';

-- `data` is json, not jsonb, and SQL never reads into it: one odd character must not fail a whole flush. No foreign
-- key: append holds the turn's row already.
create table holdfast.chunks (
  tenant_id text not null,
  turn_id uuid not null,
  attempt int not null,
  index int not null,
  n int not null check (n > 0),
  data json not null,
  primary key (tenant_id, turn_id, attempt, index)
);

create table holdfast.events (
  tenant_id text not null,
  session_id text not null,
  seq int not null,
  type text not null,
  -- Of the turn that it is about, as followers need them to keep their place: which turn, which attempt.
  turn_id uuid,
  position int,
  attempt int,
  -- Null: everyone. `user:ID`: only this user. `not:ID`: all but this user.
  audience text,
  data json not null,
  at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, session_id, seq)
);
create index events_of_turn on holdfast.events (tenant_id, turn_id, seq) where turn_id is not null;

-- The ledger: one row for each call of the model, its `step` within its attempt. `open` before the provider is called; settled
-- once, as `reported`, and never changed after that; or `estimated`, where nobody was left to hear what was reported, until
-- somebody says it after all. Not fenced: its rows are facts about money. What is done with them: 0013.
create table holdfast.usage (
  tenant_id text not null,
  turn_id uuid not null,
  attempt int not null,
  step int not null,
  session_id text not null,
  user_id text not null,
  state text not null check (state in ('open', 'reported', 'estimated')),
  provider text,
  model text,
  input_tokens int,
  output_tokens int,
  cached_input_tokens int,
  reasoning_tokens int,
  -- In the app's currency, by its prices. Null: nobody knows.
  cost numeric,
  -- It was estimated where the app's prices were not at hand: a sweeper adds its cost.
  needs_price boolean not null default false,
  -- What a budget holds back for it while it is open.
  reserved_tokens bigint,
  reserved_cost numeric,
  -- The index, in its attempt, of the first chunk that may be of it.
  from_index int not null default 0,
  -- How its attempt ended, and when; null while that runs.
  outcome text check (outcome in ('complete', 'failed', 'stopped', 'lost', 'handover')),
  ended_at timestamptz,
  -- On one row of each turn that ever was complete: the day (UTC) on which it first was.
  succeeded_on date,
  created_at timestamptz not null default clock_timestamp(),
  primary key (tenant_id, turn_id, attempt, step),
  constraint open_has_not_ended check (state <> 'open' or ended_at is null),
  constraint ended_has_its_outcome check ((ended_at is null) = (outcome is null))
);
create index usage_by_user on holdfast.usage (tenant_id, user_id, ended_at);
create index usage_open on holdfast.usage (tenant_id, user_id) where state = 'open';
create index usage_to_price on holdfast.usage (ended_at) where needs_price;
-- For reports over all users: rows lie in the table nearly in this order.
create index usage_by_end on holdfast.usage using brin (ended_at, succeeded_on) with (autosummarize = on);

-- When each user has sent messages: those of the last minute, and before the next send some older ones. One row per user
-- who ever sent under a limit; exact, where a counter per minute would let twice as many pass around its border.
create table holdfast.limits (
  tenant_id text not null,
  user_id text not null,
  sends timestamptz[] not null default '{}',
  -- That with which they asked last for a turn, where the option `limits` has budgets.
  plan text,
  primary key (tenant_id, user_id)
) with (fillfactor = 70);

-- ---------------------------------------------------------------------------------------------------------------
-- Shapes. Whatever a client receives of a message, a turn or a session is built here and nowhere else.

create function holdfast.iso(t timestamptz) returns text language sql stable parallel safe as $$
  select to_char(t at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Who sees a message, an event or a turn. `audience` is as in `events`. A null user is the server itself, which sees all.
create function holdfast.may_see(p_audience text, p_user text) returns boolean language sql immutable parallel safe as $$
  select p_audience is null or p_user is null or p_audience = 'user:' || p_user
    or p_audience like 'not:%' and p_audience <> 'not:' || p_user
$$;

-- The user who alone sees what has this audience; null: others do, too.
create function holdfast.alone(p_audience text) returns text language sql immutable parallel safe as $$
  select case when p_audience like 'user:%' then substr(p_audience, 6) end
$$;

-- Who sees what is said in a lane. `private:ID` is what one user says to the assistant alone.
create function holdfast.audience_of(p_lane text) returns text language sql immutable parallel safe as $$
  select case when p_lane like 'private:%' then 'user:' || substr(p_lane, 9) end
$$;

-- Whether a user may write in a session at this moment: transitions ask it under the session's lock.
create function holdfast.may_write(p_tenant text, p_session text, p_user text) returns boolean language sql stable
  parallel safe as $$
  select exists (select from holdfast.members m
    where m.tenant_id = p_tenant and m.session_id = p_session and m.user_id = p_user and m.role <> 'reader')
$$;

-- What a command is answered that has found nothing which its user may change: readers hear why, all others that there is
-- nothing.
create function holdfast.refusal(p_tenant text, p_session text, p_user text) returns json language sql stable
  parallel safe as $$
  select json_build_object('outcome', case when exists (select from holdfast.members m
      where m.tenant_id = p_tenant and m.session_id = p_session and m.user_id = p_user and m.role = 'reader')
    then 'forbidden' else 'not_found' end)
$$;

-- What a turn is to its lane. Each is written into the statement that asks, and finds the indexes that it would find there:
-- so no subquery in any of them, and no comparison that an index does not know.

-- It has no outcome.
create function holdfast.is_live(t holdfast.turns) returns boolean language sql immutable parallel safe as $$
  select t.state in ('queued', 'running', 'waiting')
$$;

-- Who wants its reply: with them goes what they have asked for.
create function holdfast.asked_by(t holdfast.turns) returns text language sql immutable parallel safe as $$
  select coalesce(t.round_by, t.user_id)
$$;

-- No other turn of its lane may run.
create function holdfast.keeps_lane(t holdfast.turns) returns boolean language sql immutable parallel safe as $$
  select t.state = 'running' or t.state = 'waiting' and t.holds_lane
$$;

-- A new turn of its lane comes behind it. (Written with `state in ('queued', 'running')` it did not find the lane's index, and
-- accept read every turn of the session.)
create function holdfast.is_in_line(t holdfast.turns) returns boolean language sql immutable parallel safe as $$
  select t.state = 'queued' or holdfast.keeps_lane(t)
$$;

-- A turn of the same lane because of which `t` may not run (any more): it keeps the lane, or both wait and it was first.
create function holdfast.goes_before(e holdfast.turns, t holdfast.turns) returns boolean language sql immutable
  parallel safe as $$
  select e.tenant_id = t.tenant_id and e.session_id = t.session_id and e.lane = t.lane and e.id <> t.id
    and (holdfast.keeps_lane(e) or t.state = 'queued' and e.state = 'queued' and e.position < t.position)
$$;

-- The messages of which one is chosen, this one included unless it was withdrawn. Of either role: what the assistant said
-- by itself (0004) comes after a reply as a user's message does.
create function holdfast.alternatives(m holdfast.messages) returns setof holdfast.messages language sql stable parallel safe
  as $$
  select * from holdfast.messages a where a.tenant_id = m.tenant_id and a.session_id = m.session_id and a.lane = m.lane
    and a.parent = m.parent and not a.withdrawn
$$;

-- Which of its alternatives a message is, and those beside it, of which a snapshot holds none: they are what is selected.
-- A function of its own, so that `message_json` is written into the statements that ask for many.
create function holdfast.branch_json(m holdfast.messages) returns json language sql stable parallel safe as $$
  select json_build_object('index', m.branch_index, 'count', m.branch_count,
    'previous', (select a.id from holdfast.alternatives(m) a where a.branch_index = m.branch_index - 1),
    'next', (select a.id from holdfast.alternatives(m) a where a.branch_index = m.branch_index + 1))
$$;

create function holdfast.message_json(m holdfast.messages) returns json language sql stable parallel safe as $$
  select json_build_object(
    'id', m.id, 'sessionId', m.session_id, 'seq', m.seq, 'role', m.role, 'parts', m.parts, 'metadata', m.metadata,
    'status', m.status, 'error', m.error, 'author', m.author, 'lane', m.lane, 'repliesTo', m.replies_to,
    'branch', case when m.branch_count > 1 then holdfast.branch_json(m) end, 'round', m.round, 'model', m.model, 'inputTokens', m.input_tokens,
    'outputTokens', m.output_tokens, 'createdAt', holdfast.iso(m.created_at), 'updatedAt', holdfast.iso(m.updated_at))
$$;

-- The question about a budget. Of one of the option `limits` also whose it is, when it is renewed, and who may let it go on.
create function holdfast.budget_ask_json(a holdfast.asks) returns json language sql stable parallel safe as $$
  select case when a.rule is null
    then json_build_object('kind', a.kind, 'id', a.id, 'budget', a.name, 'used', a.used, 'max', a.max,
      'expiresAt', holdfast.iso(a.expires_at))
    else json_build_object('kind', a.kind, 'id', a.id, 'budget', 'limit', 'used', a.used, 'max', a.max,
      'expiresAt', holdfast.iso(a.expires_at), 'per', a.rule -> 'per', 'every', a.rule -> 'every',
      'measure', a.rule -> 'measure', 'mayGoOn', a.rule -> 'mayGoOn', 'renewsAt', a.rule -> 'renewsAt') end
$$;

-- What a waiting turn still waits for.
create function holdfast.waiting_json(t holdfast.turns) returns json language sql stable parallel safe as $$
  select json_build_object('id', t.id, 'messageId', t.message_id, 'replyId', t.reply_id, 'state', t.state,
      'attempt', t.attempt, 'round', t.round,
      'waitingFor', case when bool_or(a.kind = 'approval') then 'approval' when bool_or(a.kind = 'uncertain') then 'uncertain'
        when bool_or(a.kind = 'budget') then 'budget' else 'tool' end,
      'approvals', coalesce(json_agg(case a.kind
        when 'budget' then holdfast.budget_ask_json(a)
        else json_build_object('kind', a.kind, 'id', a.id, 'toolCallId', a.call_id, 'toolName', a.name,
          'expiresAt', holdfast.iso(a.expires_at)) end order by a.call_id) filter (where a.kind <> 'tool'), '[]'),
      'toolCalls', coalesce(json_agg(json_build_object('toolCallId', a.call_id, 'toolName', a.name,
        'expiresAt', holdfast.iso(a.expires_at)) order by a.call_id) filter (where a.kind = 'tool'), '[]'))
    from holdfast.asks a
   where a.tenant_id = t.tenant_id and a.turn_id = t.id and a.round = t.round and a.state = 'open'
$$;

create function holdfast.turn_json(t holdfast.turns) returns json language sql stable parallel safe as $$
  select case when t.state = 'waiting' then holdfast.waiting_json(t)
    when t.state = 'queued' and t.open and t.due_at is not null
    then json_build_object('id', t.id, 'messageId', t.message_id, 'replyId', t.reply_id, 'state', t.state,
      'attempt', t.attempt, 'round', t.round, 'dueAt', holdfast.iso(t.due_at))
    else json_build_object('id', t.id, 'messageId', t.message_id, 'replyId', t.reply_id, 'state', t.state,
      'attempt', t.attempt, 'round', t.round) end
$$;

-- What of a session this member alone sees; null: nothing.
create function holdfast.aside_of(m holdfast.members) returns holdfast.asides language sql stable as $$
  select a from holdfast.asides a where a.tenant_id = m.tenant_id and a.session_id = m.session_id and a.user_id = m.user_id
$$;

-- What the server sees, which sees all that its users do.
create function holdfast.all_asides_of(s holdfast.sessions) returns holdfast.asides language sql stable as $$
  select row(s.tenant_id, s.id, '', coalesce(sum(message_count), 0)::int, coalesce(sum(input_tokens), 0)::bigint,
      coalesce(sum(output_tokens), 0)::bigint, (array_agg(last_preview order by preview_seq desc))[1],
      coalesce(max(preview_seq), 0), (array_agg(last_model order by model_seq desc))[1], coalesce(max(model_seq), 0),
      max(updated_at))::holdfast.asides
    from holdfast.asides where tenant_id = s.tenant_id and session_id = s.id
$$;

-- `a`: what only its reader sees of it, null for what all do.
create function holdfast.session_json(s holdfast.sessions, unread int, a holdfast.asides) returns json
  language sql stable as $$
  select json_build_object('id', s.id, 'title', s.title, 'metadata', s.metadata,
    'createdAt', holdfast.iso(s.created_at), 'updatedAt', holdfast.iso(greatest(s.updated_at, a.updated_at)),
    'messageCount', s.message_count + coalesce(a.message_count, 0),
    'totalTokens', s.input_tokens + s.output_tokens + coalesce(a.input_tokens + a.output_tokens, 0),
    'lastPreview', case when a.preview_seq > s.preview_seq then a.last_preview else s.last_preview end,
    'lastModel', case when a.model_seq > s.model_seq then a.last_model else s.last_model end, 'unread', unread)
$$;

-- How many messages a member has not read: others' and replies that are complete or have failed, as far as they are shown
-- and the member may see them. (What was stopped was ended by somebody who was there.) Counted when it is asked, so nothing
-- can make it wrong, and up to 100: a list of sessions reads so many rows of each and no more, however long it is unread.
-- A stored counter would be one more row to lock in each outcome, for each member.
create function holdfast.unread_of(m holdfast.members) returns int language sql stable as $$
  select count(*)::int from (
    select from holdfast.messages u where u.tenant_id = m.tenant_id and u.session_id = m.session_id
        and u.told_seq > m.read_seq and u.shown and u.status in ('complete', 'failed')
        and u.author is distinct from m.user_id and holdfast.may_see(u.audience, m.user_id)
      order by u.told_seq limit 100) x
$$;

-- What a reply took to write, as it was reported: the steps of the attempt that ended it, and of those before it that ended by
-- waiting.
create function holdfast.output_tokens_of(t holdfast.turns, p_attempt int) returns bigint language sql stable as $$
  select sum(u.output_tokens) from holdfast.usage u
   where u.tenant_id = t.tenant_id and u.turn_id = t.id and u.state = 'reported' and (u.attempt = p_attempt or u.attempt in (
     select a.attempt from holdfast.asks a where a.tenant_id = t.tenant_id and a.turn_id = t.id and a.round = t.round
       and a.attempt < p_attempt))
$$;

-- How many of its questions were answered: what a stop compares where the turn waits, or is about to go on.
create function holdfast.answers_of(t holdfast.turns) returns int language sql stable as $$
  select count(*)::int from holdfast.asks a where a.tenant_id = t.tenant_id and a.turn_id = t.id and a.round = t.round
    and a.state in ('answered', 'expired')
$$;

-- What the turn's latest attempt started from, as its `attempt.started` said. Not the checkpoint: that moves on while
-- the attempt runs, and then holds what the attempt's own chunks hold too.
create function holdfast.base_of(t holdfast.turns) returns json language sql stable as $$
  select coalesce((select e.data -> 'base' from holdfast.events e
    where e.tenant_id = t.tenant_id and e.turn_id = t.id and e.type = 'attempt.started' and e.attempt = t.attempt
    order by e.seq desc limit 1), '[]')
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Parts of transitions. Each expects the session's row to be locked by the caller.

-- Takes the session's next seq and writes one event, of a turn or (with a null turn) of the session. Answers its seq. Who sees
-- a turn sees its events; another audience is for those of the session.
create function holdfast.write_event(p_tenant text, p_session text, p_type text, t holdfast.turns, p_data json,
  p_audience text default null) returns int language plpgsql as $$
declare v_seq int; v_audience text := coalesce(t.audience, p_audience);
begin
  update holdfast.sessions set next_seq = next_seq + 1,
      updated_at = case when holdfast.alone(v_audience) is null then clock_timestamp() else updated_at end
   where tenant_id = p_tenant and id = p_session returning next_seq - 1 into v_seq;
  if holdfast.alone(v_audience) is not null then
    insert into holdfast.asides (tenant_id, session_id, user_id)
      values (p_tenant, p_session, holdfast.alone(v_audience))
      on conflict (tenant_id, session_id, user_id) do update set updated_at = clock_timestamp();
  end if;
  insert into holdfast.events (tenant_id, session_id, seq, type, turn_id, position, attempt, audience, data)
    values (p_tenant, p_session, v_seq, p_type, t.id, t.position, t.attempt, v_audience, p_data);
  -- Whom it concerns may be away (0011).
  if p_type in ('message.ai_response', 'message.error', 'turn.waiting') then
    perform holdfast.push_due(p_tenant, p_session, t.id::text, t.id, p_type, v_seq, t.audience, null);
  end if;
  return v_seq;
end $$;

-- Counts messages and tokens where those look who may see them. `p_shows`: the preview is theirs from now on, told by
-- `p_preview_seq` (null: by the event that comes next). A model that is null is none.
create function holdfast.count_in(p_tenant text, p_session text, p_audience text, p_messages int, p_shows boolean,
  p_preview text, p_input bigint default 0, p_output bigint default 0, p_model text default null,
  p_preview_seq int default null) returns void language plpgsql as $$
declare v_user text := holdfast.alone(p_audience); v_seq int;
begin
  if v_user is null then
    update holdfast.sessions set message_count = message_count + p_messages, input_tokens = input_tokens + p_input,
        output_tokens = output_tokens + p_output, last_preview = case when p_shows then p_preview else last_preview end,
        preview_seq = case when p_shows then coalesce(p_preview_seq, next_seq) else preview_seq end, last_model = coalesce(p_model, last_model),
        model_seq = case when p_model is null then model_seq else next_seq end, updated_at = clock_timestamp()
     where tenant_id = p_tenant and id = p_session;
    return;
  end if;
  select next_seq into v_seq from holdfast.sessions where tenant_id = p_tenant and id = p_session;
  if not found then return; end if;
  insert into holdfast.asides (tenant_id, session_id, user_id) values (p_tenant, p_session, v_user) on conflict do nothing;
  update holdfast.asides set message_count = message_count + p_messages, input_tokens = input_tokens + p_input,
      output_tokens = output_tokens + p_output, last_preview = case when p_shows then p_preview else last_preview end,
      preview_seq = case when p_shows then coalesce(p_preview_seq, v_seq) else preview_seq end, last_model = coalesce(p_model, last_model),
      model_seq = case when p_model is null then model_seq else v_seq end, updated_at = clock_timestamp()
   where tenant_id = p_tenant and session_id = p_session and user_id = v_user;
end $$;

-- Makes the head of a lane due, if nothing holds the lane.
create function holdfast.promote(p_tenant text, p_session text, p_lane text) returns void language plpgsql as $$
begin
  update holdfast.turns set due_at = clock_timestamp()
   where tenant_id = p_tenant and due_at is null and state = 'queued' and id = (
     select case when bool_or(holdfast.keeps_lane(e)) then null
       else (array_agg(e.id order by e.position) filter (where e.state = 'queued'))[1] end
     from holdfast.turns e
     where e.tenant_id = p_tenant and e.session_id = p_session and e.lane = p_lane and holdfast.is_live(e));
end $$;

-- Ends a turn's round: the turn, its reply and (for a failure) the user's message. `p_error` is null but for failed.
create function holdfast.settle(t holdfast.turns, p_state text, p_parts jsonb, p_metadata jsonb, p_model text,
  p_preview text, p_error jsonb, p_counts boolean) returns json language plpgsql as $$
declare v_reply holdfast.messages; v_turn holdfast.turns;
begin
  -- Who ends it for an attempt that is not there to say what it used.
  if exists (select from holdfast.usage u where u.tenant_id = t.tenant_id and u.turn_id = t.id and u.ended_at is null) then
    perform holdfast.record_usage(t.tenant_id, t.session_id, t.user_id, t.id, t.attempt, p_state, '[]');
  end if;
  update holdfast.turns set state = p_state, open = false, lease_until = null, runner = null, due_at = null,
      expires_at = null, stopping = null, stopping_reason = null, sweep_at = clock_timestamp() + interval '60 s',
      updated_at = clock_timestamp()
   where tenant_id = t.tenant_id and id = t.id returning * into v_turn;
  update holdfast.asks set state = 'closed' where tenant_id = t.tenant_id and turn_id = t.id and state = 'open';
  update holdfast.messages set parts = p_parts, metadata = coalesce(p_metadata, metadata), status = p_state,
      -- That of the outcome's event, which the caller writes next.
      told_seq = (select next_seq from holdfast.sessions where tenant_id = t.tenant_id and id = t.session_id),
      model = coalesce(p_model, model), updated_at = clock_timestamp(),
      -- Where no attempt of this round has begun, the latest one is of the round before.
      output_tokens = case when t.open or exists (select from holdfast.asks a
          where a.tenant_id = t.tenant_id and a.turn_id = t.id and a.round = t.round)
        then holdfast.output_tokens_of(t, t.attempt) end
   where tenant_id = t.tenant_id and session_id = t.session_id and id = t.reply_id returning * into v_reply;
  if p_error is not null then
    update holdfast.messages set error = p_error, updated_at = clock_timestamp()
     where tenant_id = t.tenant_id and session_id = t.session_id and id = t.message_id;
  end if;
  if p_counts then
    perform holdfast.count_in(t.tenant_id, t.session_id, t.audience, 1, v_reply.shown and p_preview is not null, p_preview);
  end if;
  perform holdfast.promote(t.tenant_id, t.session_id, t.lane);
  return holdfast.message_json(v_reply);
end $$;

-- Parts that get no more chunks, made valid as history: what `closeParts` (src/core/parts.ts) does, for a turn that fails
-- where no process is to touch its content. A test compares the two.
create function holdfast.closed_parts(p_parts jsonb, p_error_text text) returns jsonb language sql immutable parallel safe as $$
  with part as (
    select value as p, ordinality as place, value ->> 'state' as state,
        (value - '{rawInput,inputEncoding,approval}'::text[]) || jsonb_build_object('state', 'output-error',
          'errorText', p_error_text, 'input', coalesce(nullif(value -> 'input', 'null'), '{}')) as failed
      from jsonb_array_elements(p_parts) with ordinality)
  select coalesce(jsonb_agg(case
      when state = 'streaming' then p || '{"state": "done"}'
      when state in ('input-streaming', 'input-available', 'approval-requested') then failed
      when state = 'approval-responded' and p #> '{approval,approved}' = 'true'
        then failed || jsonb_build_object('approval', p -> 'approval')
      when state = 'approval-responded' then p || '{"state": "output-denied"}'
      else p end order by place), '[]')
    from part
$$;

-- `p_error` is the failure and, not to be stored, what it is in the last of `roundsMax` rounds, where nobody can retry.
create function holdfast.settle_failed(t holdfast.turns, p_parts jsonb, p_metadata jsonb, p_model text, p_error jsonb)
  returns int language plpgsql as $$
declare v_message json; v_error jsonb := p_error - 'roundsMax' - 'last';
begin
  if t.round >= (p_error ->> 'roundsMax')::int then v_error := p_error -> 'last'; end if;
  v_message := holdfast.settle(t, 'failed', p_parts, p_metadata, p_model, null, v_error, false);
  return holdfast.write_event(t.tenant_id, t.session_id, 'message.error', t,
    (jsonb_build_object('userMessageId', t.message_id) || v_error || jsonb_build_object('message', v_message))::json);
end $$;

-- Events as transitions answer them, so that they can be handed on without a read.
create function holdfast.events_of(p_tenant text, p_session text, p_seqs int[]) returns json language sql stable as $$
  select json_agg(json_build_object('seq', e.seq, 'type', e.type, 'turnId', e.turn_id, 'position', e.position,
      'attempt', e.attempt, 'audience', e.audience, 'at', holdfast.iso(e.at), 'data', e.data) order by e.seq)
    from holdfast.events e where e.tenant_id = p_tenant and e.session_id = p_session and e.seq = any(p_seqs)
$$;

-- What a transition answers: its outcome, and the event that it wrote.
create function holdfast.answer(p_outcome text, p_tenant text, p_session text, p_seq int) returns json
  language sql stable as $$
  select json_build_object('outcome', p_outcome, 'event', holdfast.events_of(p_tenant, p_session, array[p_seq]) -> 0)
$$;

-- ---------------------------------------------------------------------------------------------------------------
-- Sessions.

-- Outcomes: created, same (the caller is a member of it: what is there), conflict (somebody else's, or a deleted one's).
create function holdfast.create_session(p_tenant text, p_session text, p_user text, p_title text, p_metadata jsonb)
  returns json language plpgsql as $$
declare s holdfast.sessions; v_there json;
begin
  insert into holdfast.sessions (tenant_id, id, title, metadata) values (p_tenant, p_session, p_title, p_metadata)
    on conflict do nothing returning * into s;
  if found then
    -- Asked after the insert, which may have waited for a deletion to commit.
    if exists (select from holdfast.deleted_sessions where tenant_id = p_tenant and id = p_session) then
      delete from holdfast.sessions where tenant_id = p_tenant and id = p_session;
      return json_build_object('outcome', 'conflict');
    end if;
    insert into holdfast.members (tenant_id, session_id, user_id, role) values (p_tenant, p_session, p_user, 'owner');
    return json_build_object('outcome', 'created', 'session', holdfast.session_json(s, 0, null));
  end if;
  select holdfast.session_json(s2, holdfast.unread_of(m), holdfast.aside_of(m)) into v_there from holdfast.sessions s2
    join holdfast.members m on m.tenant_id = s2.tenant_id and m.session_id = s2.id and m.user_id = p_user
   where s2.tenant_id = p_tenant and s2.id = p_session;
  if not found then return json_build_object('outcome', 'conflict'); end if;
  return json_build_object('outcome', 'same', 'session', v_there);
end $$;

-- Outcomes: updated, not_found, forbidden (readers).
create function holdfast.rename_session(p_tenant text, p_session text, p_user text, p_title text) returns json
  language plpgsql as $$
declare s holdfast.sessions; m holdfast.members; v_seq int;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  select * into m from holdfast.members
   where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  if m.role = 'reader' then return json_build_object('outcome', 'forbidden'); end if;
  update holdfast.sessions set title = p_title, updated_at = clock_timestamp()
   where tenant_id = p_tenant and id = p_session returning * into s;
  -- The event is for every member: what each has not read is not in it.
  v_seq := holdfast.write_event(p_tenant, p_session, 'session.updated', null,
    json_build_object('session', holdfast.session_json(s, 0, null)));
  return json_build_object('outcome', 'updated', 'session',
    holdfast.session_json(s, holdfast.unread_of(m), holdfast.aside_of(m)),
    'event', holdfast.answer('', p_tenant, p_session, v_seq) -> 'event');
end $$;

-- A title that no person gave: it is taken only while there is none. Null: there is one, or no such session.
create function holdfast.give_title(p_tenant text, p_session text, p_title text) returns json language plpgsql as $$
declare s holdfast.sessions; v_seq int;
begin
  update holdfast.sessions set title = p_title, updated_at = clock_timestamp()
   where tenant_id = p_tenant and id = p_session and title is null returning * into s;
  if not found then return null; end if;
  v_seq := holdfast.write_event(p_tenant, p_session, 'session.updated', null,
    json_build_object('session', holdfast.session_json(s, 0, null)));
  return holdfast.answer('', p_tenant, p_session, v_seq) -> 'event';
end $$;

-- Everything that was said is gone; the ledger's rows stay, they hold no content. Outcomes: deleted, not_found,
-- forbidden (all but owners).
create function holdfast.delete_session(p_tenant text, p_session text, p_user text) returns text
  language plpgsql as $$
declare v_role text;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  select role into v_role from holdfast.members
   where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if not found then return 'not_found'; end if;
  if v_role <> 'owner' then return 'forbidden'; end if;
  perform holdfast.erase_session(p_tenant, p_session);
  return 'deleted';
end $$;

-- Expects the session's row to be locked by the caller.
create function holdfast.erase_session(p_tenant text, p_session text) returns void language plpgsql as $$
begin
  perform 1 from holdfast.turns where tenant_id = p_tenant and session_id = p_session order by id for no key update;
  -- While its chunks are there: what it may have used so far.
  perform holdfast.record_usage(tenant_id, session_id, user_id, id, attempt, 'lost', '[]') from holdfast.turns
   where tenant_id = p_tenant and session_id = p_session and state = 'running';
  delete from holdfast.chunks c using holdfast.turns t
   where t.tenant_id = p_tenant and t.session_id = p_session and c.tenant_id = p_tenant and c.turn_id = t.id;
  delete from holdfast.turns where tenant_id = p_tenant and session_id = p_session;
  delete from holdfast.messages where tenant_id = p_tenant and session_id = p_session;
  delete from holdfast.events where tenant_id = p_tenant and session_id = p_session;
  delete from holdfast.members where tenant_id = p_tenant and session_id = p_session;
  delete from holdfast.sessions where tenant_id = p_tenant and id = p_session;
  insert into holdfast.deleted_sessions (tenant_id, id) values (p_tenant, p_session);
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- How often a user may send. The row is locked after the session's: last of all.

-- What is left to a user who has sent at these moments, oldest first, all within the last minute: how many more, and when
-- the next one becomes free.
create function holdfast.allowance(p_sends timestamptz[], p_max int, p_now timestamptz) returns json
  language sql stable parallel safe as $$
  select json_build_object('max', p_max, 'left', greatest(0, p_max - cardinality(p_sends)), 'freeInMs',
    greatest(0, ceil(extract(epoch from
      coalesce(p_sends[greatest(1, cardinality(p_sends) - p_max + 1)], p_now) + interval '60 s' - p_now) * 1000))::int)
$$;

-- Counts one send if there were fewer than `p_max` in the last minute (0: no such limit). `p_more`, where a turn is asked for:
-- {openTurns: so many of the user's may have no outcome, 0: any number; plan; budgets: those beyond which nobody may go}.
-- `p_ends`: turns that end with it. Whoever asks for a turn under a limit holds the user's row to the end of their
-- transaction, so that the turns, counted in a statement after the lock, are all there are. Answers the allowance, with
-- `taken`, and `reached` where it was not: which limit; null where there is none.
create function holdfast.take_send(p_tenant text, p_user text, p_max int, p_more jsonb default null,
  p_ends uuid[] default '{}') returns jsonb language plpgsql as $$
declare v_sends timestamptz[]; v_now timestamptz; v_open int := 0; v_reached text; v_budget jsonb;
  v_open_max int := coalesce((p_more ->> 'openTurns')::int, 0);
begin
  if p_max = 0 and p_more is null then return null; end if;
  insert into holdfast.limits (tenant_id, user_id) values (p_tenant, p_user) on conflict do nothing;
  select sends into v_sends from holdfast.limits where tenant_id = p_tenant and user_id = p_user for no key update;
  v_now := clock_timestamp();
  v_sends := array(select at from unnest(v_sends) at where at > v_now - interval '60 s' order by at);
  if v_open_max > 0 then v_open := holdfast.open_turns_of(p_tenant, p_user, p_ends); end if;
  if p_more is not null then
    update holdfast.limits set plan = p_more ->> 'plan'
     where tenant_id = p_tenant and user_id = p_user and plan is distinct from p_more ->> 'plan';
    v_budget := holdfast.used_up_of(p_tenant, p_more -> 'budgets');
  end if;
  v_reached := case when p_max > 0 and cardinality(v_sends) >= p_max then 'sends'
    when v_open_max > 0 and v_open >= v_open_max then 'openTurns' when v_budget is not null then 'budget' end;
  if v_reached is null then
    v_open := v_open + 1;
    if p_max > 0 then
      v_sends := v_sends || v_now;
      update holdfast.limits set sends = v_sends where tenant_id = p_tenant and user_id = p_user;
    end if;
  end if;
  return holdfast.allowance(v_sends, p_max, v_now)::jsonb || jsonb_build_object('taken', v_reached is null)
    || case when v_reached is null then '{}' else jsonb_build_object('reached', v_reached) end
    || case when v_open_max = 0 then '{}' else jsonb_build_object('openTurns',
      jsonb_build_object('max', v_open_max, 'left', greatest(0, v_open_max - v_open))) end
    || case when v_reached = 'budget' then jsonb_build_object('budget', v_budget) else '{}' end;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- A message and the turn that answers it. Each of these expects the session's row to be locked by the caller.

-- The last message that is shown of a lane, which the next one comes after; '' before the first.
create function holdfast.tip_of(p_tenant text, p_session text, p_lane text) returns text language sql stable as $$
  select coalesce((select id from holdfast.messages where tenant_id = p_tenant and session_id = p_session
    and lane = p_lane and shown order by position desc, role limit 1), '')
$$;

create function holdfast.create_turn(p_tenant text, p_session text, p_user text, p_message text, p_turn uuid,
  p_reply text, p_parts jsonb, p_metadata jsonb, p_body_hash text, p_preview text, p_lane text, p_parent text,
  p_edit_of text, p_expires_ms bigint, p_steers boolean) returns json language plpgsql as $$
declare v_message holdfast.messages; v_turn holdfast.turns; v_seq int; v_audience text := holdfast.audience_of(p_lane);
begin
  perform holdfast.count_in(p_tenant, p_session, v_audience, 1, true, p_preview);
  select next_seq into v_seq from holdfast.sessions where tenant_id = p_tenant and id = p_session;
  insert into holdfast.messages (tenant_id, session_id, id, seq, told_seq, position, role, author, parts, metadata,
      status, lane, audience, parent, turn_id, body_hash, edit_of)
    values (p_tenant, p_session, p_message, v_seq, v_seq, v_seq, 'user', p_user, p_parts, p_metadata, 'complete', p_lane,
      v_audience, p_parent, p_turn, p_body_hash, p_edit_of);
  insert into holdfast.messages (tenant_id, session_id, id, seq, position, role, parts, status, lane, audience, replies_to,
      parent, round, turn_id)
    values (p_tenant, p_session, p_reply, v_seq, v_seq, 'assistant', '[]', 'pending', p_lane, v_audience, p_message,
      p_message, 1, p_turn);
  perform holdfast.choose(p_tenant, p_session, p_message);
  insert into holdfast.turns (tenant_id, id, session_id, message_id, reply_id, user_id, position, lane, audience, steers,
      state, due_at, expires_at)
    select p_tenant, p_turn, p_session, p_message, p_reply, p_user, v_seq, p_lane, v_audience, p_steers, 'queued',
      case when exists (select from holdfast.turns e where e.tenant_id = p_tenant and e.session_id = p_session
        and e.lane = p_lane and holdfast.is_in_line(e))
      then null else clock_timestamp() end,
      clock_timestamp() + make_interval(secs => p_expires_ms / 1000.0)
    returning * into v_turn;
  select * into v_message from holdfast.messages
   where tenant_id = p_tenant and session_id = p_session and id = p_message;
  perform holdfast.write_event(p_tenant, p_session, 'message.created', v_turn, json_build_object(
      'message', holdfast.message_json(v_message), 'reply', json_build_object('id', p_reply, 'status', 'pending'),
      'turn', holdfast.turn_json(v_turn)));
  return json_build_object('outcome', 'created', 'seq', v_seq,
    'event', holdfast.answer('', p_tenant, p_session, v_seq) -> 'event');
end $$;

-- Makes a message the chosen one of its alternatives, and shows the branch that it is in. A message without alternatives
-- changes nothing, which is nearly every one.
create function holdfast.choose(p_tenant text, p_session text, p_message text) returns void language plpgsql as $$
declare m holdfast.messages;
begin
  select * into m from holdfast.messages where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if m.shown and (select count(*) from holdfast.alternatives(m)) < 2 then return; end if;
  perform holdfast.number_alternatives(m);
  -- Chosen on the whole way from the first message of the lane.
  with recursive way as (
    select w.* from holdfast.messages w where w.tenant_id = p_tenant and w.session_id = p_session and w.id = p_message
    union all
    select p.* from way w join holdfast.messages p on p.tenant_id = p_tenant and p.session_id = p_session and p.id = w.parent)
  update holdfast.messages u set chosen = (u.id = w.id)
    from way w
   where u.tenant_id = p_tenant and u.session_id = p_session and u.lane = w.lane
     and u.parent = w.parent and not u.withdrawn and u.chosen <> (u.id = w.id);
  perform holdfast.show_lane(p_tenant, p_session, m.lane);
end $$;

-- As they came; what was imported (0015) first, by when it was said.
create function holdfast.number_alternatives(m holdfast.messages) returns void language plpgsql as $$
begin
  update holdfast.messages u set branch_index = a.index, branch_count = a.count
    from (select id, (row_number() over (order by case when import_hash is null then seq end nulls first,
            case when import_hash is not null then created_at end, id) - 1)::int as index, (count(*) over ())::int as count
      from holdfast.alternatives(m)) a
   where u.tenant_id = m.tenant_id and u.session_id = m.session_id and u.id = a.id
     and (u.branch_index, u.branch_count) is distinct from (a.index, a.count);
end $$;

-- A message and its reply leave the conversation; what comes after them comes after what was before them, as alternatives
-- of what is there already. If it was the chosen one, that is now what came after it, else the message that it was an
-- edit of, else its latest alternative. In other branches nothing is chosen: a message that is not shown may be withdrawn, too.
create function holdfast.take_back(t holdfast.turns) returns void language plpgsql as $$
declare m holdfast.messages;
begin
  select * into m from holdfast.messages
   where tenant_id = t.tenant_id and session_id = t.session_id and id = t.message_id;
  update holdfast.messages set withdrawn = true, chosen = false, shown = false, branch_index = 0, branch_count = 1,
      updated_at = clock_timestamp()
   where tenant_id = t.tenant_id and session_id = t.session_id and id in (t.message_id, t.reply_id);
  update holdfast.messages set parent = m.parent, chosen = chosen and m.chosen
   where tenant_id = t.tenant_id and session_id = t.session_id and parent = t.reply_id;
  update holdfast.messages set chosen = true
   where tenant_id = t.tenant_id and session_id = t.session_id and not chosen
     and id = (select id from holdfast.alternatives(m)
       order by chosen desc, (id = m.edit_of) is true desc, seq desc, id limit 1);
  perform holdfast.number_alternatives(m);
  perform holdfast.show_lane(t.tenant_id, t.session_id, t.lane);
  perform holdfast.count_in(t.tenant_id, t.session_id, t.audience, -1, false, null);
end $$;

-- The beginning of the last message that is shown, of all lanes that are seen together, is what lists show of the session: asked
-- where that may be another one than what came last. Long texts are cut before they are searched. Where none is shown, what others
-- see, too, is later than nothing.
create function holdfast.renew_preview(p_tenant text, p_session text, p_audience text) returns void language plpgsql as $$
declare v_preview text; v_seq int;
begin
  select (select nullif(left(trim(regexp_replace(left(string_agg(p ->> 'text', ' '), 4000), '\s+', ' ', 'g')), 140), '')
        from jsonb_array_elements(m.parts) p where p ->> 'type' = 'text'), coalesce(m.told_seq, m.seq)
    into v_preview, v_seq
    from holdfast.messages m where m.tenant_id = p_tenant and m.session_id = p_session and m.shown and m.parts <> '[]'
      and m.audience is not distinct from p_audience
   order by m.position desc, m.role limit 1;
  perform holdfast.count_in(p_tenant, p_session, p_audience, 0, true, v_preview, p_preview_seq => coalesce(v_seq, 0));
end $$;

-- Shows what chosen messages lead to, and nothing else.
create function holdfast.show_lane(p_tenant text, p_session text, p_lane text) returns void language plpgsql as $$
begin
  with recursive way as (
    select id from holdfast.messages where tenant_id = p_tenant and session_id = p_session and lane = p_lane
      and parent = '' and chosen and not withdrawn
    union all
    select c.id from way w join holdfast.messages c on c.tenant_id = p_tenant and c.session_id = p_session
      and c.parent = w.id and c.chosen and not c.withdrawn)
  update holdfast.messages u set shown = u.id in (select id from way)
   where u.tenant_id = p_tenant and u.session_id = p_session and u.lane = p_lane
     and u.shown <> (u.id in (select id from way));
  perform holdfast.renew_preview(p_tenant, p_session, holdfast.audience_of(p_lane));
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Accept, one at a time: what the batch (in src/store/accept.ts) leaves. Outcomes: created, same (what is stored
-- now), conflict (this id with another body), not_found (no such session, or not a member of it), forbidden,
-- rate_limited (`p_sends_max` messages within the last minute, 0: as many as they like; `p_more` as `take_send` has it). `p_refuses_budget`: the message is
-- the no to what its lane asks about a budget.

create function holdfast.asks_about_budget(t holdfast.turns) returns boolean language plpgsql stable as $$
begin
  return t.state = 'waiting' and exists (select from holdfast.asks a where a.tenant_id = t.tenant_id and a.turn_id = t.id
    and a.round = t.round and a.kind = 'budget' and a.state = 'open');
end $$;

create function holdfast.accept(p_tenant text, p_session text, p_user text, p_message text, p_turn uuid, p_reply text,
  p_parts jsonb, p_metadata jsonb, p_body_hash text, p_preview text, p_lane text, p_expires_ms bigint,
  p_sends_max int, p_when_busy text default 'queue', p_refuses_budget boolean default false, p_more jsonb default null)
  returns json language plpgsql as $$
declare v_allowance jsonb; v_role text; v_message holdfast.messages; v_reply holdfast.messages; v_turn holdfast.turns;
  v_begun uuid[]; v_interrupted json; v_created json;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  select role into v_role from holdfast.members
   where tenant_id = p_tenant and session_id = p_session and user_id = p_user;
  if not found then return json_build_object('outcome', 'not_found'); end if;
  if v_role = 'reader' then return json_build_object('outcome', 'forbidden'); end if;

  select * into v_message from holdfast.messages
   where tenant_id = p_tenant and session_id = p_session and id = p_message;
  if found then
    if v_message.body_hash is distinct from p_body_hash or v_message.author is distinct from p_user then
      return json_build_object('outcome', 'conflict');
    end if;
    select * into v_turn from holdfast.turns where tenant_id = p_tenant and id = v_message.turn_id;
    select * into v_reply from holdfast.messages
     where tenant_id = p_tenant and session_id = p_session and id = v_turn.reply_id;
    -- Those that are marked still, for the sender whose first answer was lost.
    if p_when_busy = 'interrupt' or p_refuses_budget then
      select json_agg(json_build_object('messageId', e.message_id, 'round', e.round)) into v_interrupted
        from holdfast.turns e where e.tenant_id = p_tenant and e.session_id = p_session and e.lane = v_message.lane
          and e.stopping is not null and e.stopping_reason = 'interrupted';
    end if;
    return json_build_object('outcome', 'same', 'seq', v_message.seq, 'interrupted', coalesce(v_interrupted, '[]'),
      'data', json_build_object(
      'message', holdfast.message_json(v_message),
      'reply', json_build_object('id', v_reply.id, 'status', v_reply.status), 'turn', holdfast.turn_json(v_turn)));
  end if;

  if p_when_busy = 'reject' and exists (select from holdfast.turns e where e.tenant_id = p_tenant
      and e.session_id = p_session and e.lane = p_lane and holdfast.is_in_line(e)
      and not (p_refuses_budget and holdfast.asks_about_budget(e))) then
    return json_build_object('outcome', 'busy');
  end if;
  if p_when_busy = 'interrupt' then
    -- All that have begun: one that backs off may have been overtaken by the retry of an earlier one, and one whose
    -- questions were answered goes on. What waits for a new round has not begun.
    v_begun := array(select e.id from holdfast.turns e where e.tenant_id = p_tenant and e.session_id = p_session
        and e.lane = p_lane and e.stopping is null and (e.open or e.holds_lane and (e.state = 'waiting'
          or e.state = 'queued' and exists (select from holdfast.asks a where a.tenant_id = p_tenant and a.turn_id = e.id
            and a.round = e.round)))
       order by e.id for no key update);
  elsif p_refuses_budget then
    v_begun := array(select e.id from holdfast.turns e where e.tenant_id = p_tenant and e.session_id = p_session
        and e.lane = p_lane and e.stopping is null and holdfast.asks_about_budget(e)
       order by e.id for no key update);
  end if;
  -- After the locks of turns, as everywhere.
  v_allowance := holdfast.take_send(p_tenant, p_user, p_sends_max, p_more, coalesce(v_begun, '{}'));
  if not (v_allowance -> 'taken')::boolean then
    return json_build_object('outcome', 'rate_limited', 'allowance', v_allowance);
  end if;
  -- They are marked with the acceptance: whoever dies now, they are stopped, and by anybody.
  with marked as (
    update holdfast.turns set stopping = p_user, stopping_reason = 'interrupted', updated_at = clock_timestamp()
     where tenant_id = p_tenant and id = any(v_begun) returning message_id, round)
  select coalesce(json_agg(json_build_object('messageId', message_id, 'round', round)), '[]') into v_interrupted from marked;
  v_created := holdfast.create_turn(p_tenant, p_session, p_user, p_message, p_turn, p_reply, p_parts, p_metadata,
    p_body_hash, p_preview, p_lane, holdfast.tip_of(p_tenant, p_session, p_lane), null, p_expires_ms, p_when_busy = 'steer');
  return json_build_object('outcome', 'created', 'event', v_created -> 'event', 'interrupted', v_interrupted,
    'allowance', v_allowance);
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Claim. Candidates are found without locks; each is then decided under its session's lock, in statements of their
-- own. Answers rows {kind: claimed | failed, …} and last {kind: next, dueInMs, seenAt}: when to look again, and the
-- moment that this claim judged by.
--
-- Only leases that had run out at `p_expired_before` are taken: the `seenAt` that the claimer was answered last. A claim
-- that lies in a hanging server is carried out when the server goes on, when every lease has run out and before any
-- holder was heard: its claimer is gone by then, and 3 of 5 hangs of 8 s began every turn anew, twice.
--
-- A runner numbers its claims. `p_lost` are those of its numbers whose answers it did not get: what they took is
-- answered again, as attempts that nobody has begun, with a new lease and under this claim's number (so that each is
-- answered until an answer arrives, and not once more after that). No lock of the runner keeps a lost claim from being
-- carried out after this one: it is asked for in the next claims, too, and nobody waits for it.

create function holdfast.claimed_json(t holdfast.turns, p_seqs int[]) returns json language sql stable as $$
  select json_build_object('kind', 'claimed', 'tenantId', t.tenant_id, 'sessionId', t.session_id, 'turnId', t.id,
    'messageId', t.message_id, 'replyId', t.reply_id, 'userId', t.user_id, 'lane', t.lane, 'position', t.position,
    'audience', t.audience, 'attempt', t.attempt, 'round', t.round, 'failures', t.failures, 'checkpoint', t.checkpoint,
    'stepsFrom', t.steps_from, 'tokens', t.tokens,
    'letGoOn', (select count(*)::int from holdfast.asks a where a.tenant_id = t.tenant_id and a.turn_id = t.id
      and a.round = t.round and a.kind = 'budget' and a.state = 'answered' and a.answer -> 'approved' = 'true'),
    'plan', (select l.plan from holdfast.limits l where l.tenant_id = t.tenant_id and l.user_id = t.user_id),
    'events', holdfast.events_of(t.tenant_id, t.session_id, p_seqs))
$$;

-- The events that the claim of the turn's latest attempt wrote.
create function holdfast.claim_seqs(t holdfast.turns) returns int[] language sql stable as $$
  select array_agg(e.seq) from holdfast.events s
    join holdfast.events e on e.tenant_id = s.tenant_id and e.turn_id = s.turn_id
      and (e.seq = s.seq or e.seq = s.seq - 1 and e.type = 'attempt.ended' and e.data ->> 'reason' = 'crashed')
   where s.tenant_id = t.tenant_id and s.turn_id = t.id and s.type = 'attempt.started' and s.attempt = t.attempt
$$;

-- Whether a tool of the round has begun, or a question of it was answered (a client's tool has run then, and no person is
-- asked twice): then nothing of it may be written anew.
create function holdfast.has_run_tools(t holdfast.turns) returns boolean language plpgsql stable as $$
begin
  return exists (select from holdfast.tool_calls c
      where c.tenant_id = t.tenant_id and c.turn_id = t.id and c.round = t.round)
    or exists (select from holdfast.asks a where a.tenant_id = t.tenant_id and a.turn_id = t.id and a.round = t.round
      and a.state = 'answered');
end $$;

-- `p_takeover`: what becomes of a turn whose lease has run out. continue: it goes on from its checkpoint. restart: from an
-- empty reply, unless a tool has begun or somebody has answered. fail: it has failed, by `p_crashed`, as after `p_crashes_max` takeovers in a row.
create function holdfast.claim(p_runner text, p_lease_ms int, p_limit int, p_take_expired boolean, p_crashes_max int,
  p_crashed jsonb, p_expired_before timestamptz default 'infinity', p_claim int default 0, p_lost int[] default '{}',
  p_takeover text default 'continue')
  returns setof json language plpgsql as $$
declare cand record; old holdfast.turns; t holdfast.turns; v_seq int; v_taken int := 0; v_steps int; v_chunks int;
  v_before int[]; v_due timestamptz;
begin
  if p_lost <> '{}' then
    -- Only turn rows, as an append takes them: nothing of the session is written.
    for cand in
      select tenant_id, id from holdfast.turns
       where state = 'running' and runner = p_runner and claim = any(p_lost) and stopping is null
       order by id for no key update skip locked
    loop
      update holdfast.turns set claim = p_claim, updated_at = clock_timestamp(),
          lease_until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)
       where tenant_id = cand.tenant_id and id = cand.id returning * into t;
      v_taken := v_taken + 1;
      return next holdfast.claimed_json(t, holdfast.claim_seqs(t));
    end loop;
  end if;

  if (select paused from holdfast.meta where only_row) then
    return next json_build_object('kind', 'next', 'seenAt', now(), 'dueInMs', null, 'paused', true);
    return;
  end if;

  for cand in
    select * from (
      (select tenant_id, id, session_id, due_at as at from holdfast.turns
        where state = 'queued' and due_at <= now() and stopping is null and (expires_at is null or expires_at > now())
        order by due_at limit p_limit * 2)
      union all
      (select tenant_id, id, session_id, lease_until from holdfast.turns
        where p_take_expired and state = 'running' and lease_until < least(now(), p_expired_before) and stopping is null
        order by lease_until limit p_limit * 2)
    ) c order by at
  loop
    exit when v_taken >= p_limit;
    perform 1 from holdfast.sessions where tenant_id = cand.tenant_id and id = cand.session_id
      for no key update skip locked;
    continue when not found;

    -- An append may hold the row. To wait for it here would make every turn of this claim wait.
    select * into old from holdfast.turns where tenant_id = cand.tenant_id and id = cand.id
      for no key update skip locked;
    continue when not found;
    update holdfast.turns u set state = 'running', attempt = u.attempt + 1, open = true, runner = p_runner,
        claim = p_claim, lease_until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0), due_at = null, expires_at = null,
        updated_at = clock_timestamp(), tokens = greatest(u.tokens, coalesce((u.checkpoint ->> 'tokens')::bigint, 0)),
        sweep_at = case when u.attempt > 0 then clock_timestamp() + interval '60 s' end
     where u.tenant_id = cand.tenant_id and u.id = cand.id and u.stopping is null
       and (u.state = 'queued' and u.due_at <= now() and (u.expires_at is null or u.expires_at > now())
         or p_take_expired and u.state = 'running' and u.lease_until < least(now(), p_expired_before))
       and not exists (select from holdfast.turns e where holdfast.goes_before(e, u))
     returning * into t;
    if not found then
      -- Not the head of its lane although it was due: whoever frees the lane promotes it.
      update holdfast.turns u set due_at = null
       where u.tenant_id = cand.tenant_id and u.id = cand.id and u.state = 'queued'
         and exists (select from holdfast.turns e where holdfast.goes_before(e, u));
      continue;
    end if;

    v_before := array[]::int[];
    if old.state = 'running' then
      v_steps := coalesce((old.checkpoint ->> 'step')::int, 0);
      v_chunks := coalesce((select sum(n) from holdfast.chunks c where c.tenant_id = t.tenant_id and c.turn_id = t.id
          and c.attempt = old.attempt), 0)
        - case when (old.checkpoint ->> 'attempt')::int = old.attempt then (old.checkpoint ->> 'nextIndex')::int else 0 end;
      -- How many chunks are stored of a step depends on when it was flushed and on what was joined, so a reply that
      -- always kills at the same place gets a little further now and then. Only twice as far is further: that happens
      -- 20 times within a step at most, for a reply has a bound.
      if v_steps > t.best_steps or v_steps = t.best_steps and v_chunks > 2 * t.best_chunks then
        update holdfast.turns set crashes = 0, best_steps = v_steps, best_chunks = v_chunks
         where tenant_id = t.tenant_id and id = t.id returning * into t;
      else
        update holdfast.turns set crashes = crashes + 1
         where tenant_id = t.tenant_id and id = t.id returning * into t;
      end if;
      v_before := v_before || holdfast.write_event(t.tenant_id, t.session_id, 'attempt.ended', old,
        json_build_object('turnId', t.id, 'attempt', old.attempt, 'reason', 'crashed'));
      perform holdfast.record_usage(t.tenant_id, t.session_id, t.user_id, t.id, old.attempt, 'lost', '[]');
      if p_takeover = 'restart' and not holdfast.has_run_tools(t) then
        update holdfast.turns set checkpoint = null, steps_from = 0
         where tenant_id = t.tenant_id and id = t.id returning * into t;
      end if;
    end if;

    -- Also where the turn fails at once: what was shown of the attempt before is reset to what is kept.
    v_seq := holdfast.write_event(t.tenant_id, t.session_id, 'attempt.started', t, json_build_object(
      'turnId', t.id, 'replyId', t.reply_id, 'attempt', t.attempt,
      'base', coalesce(t.checkpoint -> 'parts', '[]'::json)));
    if t.crashes >= p_crashes_max or old.state = 'running' and p_takeover = 'fail' then
      -- No process touches its content: it may be what brings them down.
      v_before := v_before || v_seq;
      v_seq := holdfast.settle_failed(t, holdfast.closed_parts(coalesce((t.checkpoint -> 'parts')::jsonb, '[]'),
        'The reply failed before this call was finished.'), (t.checkpoint -> 'metadata')::jsonb, null, p_crashed);
      return next json_build_object('kind', 'failed', 'tenantId', t.tenant_id, 'sessionId', t.session_id,
        'events', holdfast.events_of(t.tenant_id, t.session_id, v_before || v_seq));
      continue;
    end if;

    perform holdfast.open_usage(t, 0);
    v_taken := v_taken + 1;
    return next holdfast.claimed_json(t, v_before || v_seq);
  end loop;

  select min(at) into v_due from (
    (select due_at as at from holdfast.turns
      where state = 'queued' and due_at is not null and stopping is null and (expires_at is null or expires_at > now())
      order by due_at limit 1)
    union all
    (select lease_until from holdfast.turns
      where state = 'running' and runner is distinct from p_runner and stopping is null
      order by lease_until limit 1)) d;
  return next json_build_object('kind', 'next', 'seenAt', now(),
    'dueInMs', case when v_due is not null then greatest(0, ceil(extract(epoch from v_due - clock_timestamp()) * 1000)) end);
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- The ends of an attempt. Each locks session and turn, then decides. An outcome that carries my attempt is mine: so
-- a call whose answer was lost is made again with the same arguments.

create function holdfast.locked_turn(p_tenant text, p_session text, p_turn uuid) returns holdfast.turns
  language plpgsql as $$
declare t holdfast.turns;
begin
  perform 1 from holdfast.sessions where tenant_id = p_tenant and id = p_session for no key update;
  select * into t from holdfast.turns where tenant_id = p_tenant and id = p_turn and session_id = p_session
    for no key update;
  return t;
end $$;

create function holdfast.outcome_seq(t holdfast.turns) returns int language sql stable as $$
  select max(seq) from holdfast.events where tenant_id = t.tenant_id and turn_id = t.id
    and type in ('message.ai_response', 'message.error', 'message.stopped')
$$;

-- What the fence compares. Asked under the turn's lock.
create function holdfast.is_held(t holdfast.turns, p_attempt int) returns boolean language sql immutable as $$
  select t.attempt = p_attempt and t.state = 'running' and t.stopping is null
$$;

-- How the ledger names the end of an attempt that does not hold its turn any more: as it ended, if it had its end, for a
-- provider's word may come after it. The turn may be gone (null).
create function holdfast.lost_to(t holdfast.turns, p_attempt int) returns text language sql stable as $$
  -- The first: what ends a later round before an attempt of it begins names the same attempt. So does a mark on that
  -- round, hence it counts only where the attempt has no end.
  select coalesce((select case e.type when 'message.stopped' then 'stopped' when 'message.error' then 'failed'
        when 'message.ai_response' then 'complete' when 'turn.waiting' then
          -- It asks because it made no progress.
          case when e.data #>> '{turn,approvals,0,budget}' = 'progress' then 'failed' else 'complete' end
        else case e.data ->> 'reason' when 'handover' then 'handover' when 'error' then 'failed' else 'lost' end end
      from holdfast.events e where e.tenant_id = t.tenant_id and e.turn_id = t.id and e.attempt = p_attempt
        and e.type in ('attempt.ended', 'turn.waiting', 'message.stopped', 'message.error', 'message.ai_response')
      order by e.seq limit 1),
    case when t.attempt = p_attempt and t.stopping is not null then 'stopped' else 'lost' end)
$$;

create function holdfast.lost(t holdfast.turns, p_attempt int, p_usage json) returns json language plpgsql as $$
begin
  perform holdfast.record_usage(t.tenant_id, t.session_id, t.user_id, t.id, p_attempt, holdfast.lost_to(t, p_attempt),
    p_usage);
  return json_build_object('outcome', 'lost');
end $$;

-- Outcomes: finished, lost (not mine any more), mismatch (the log does not hold every chunk that was made).
create function holdfast.finish(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_next_index int,
  p_parts jsonb, p_metadata jsonb, p_model text, p_preview text, p_usage json) returns json language plpgsql as $$
declare t holdfast.turns; v_message json; v_seq int;
begin
  t := holdfast.locked_turn(p_tenant, p_session, p_turn);
  if t.attempt = p_attempt and t.state = 'complete' then
    return holdfast.answer('finished', p_tenant, p_session, holdfast.outcome_seq(t));
  end if;
  if t.id is null then return json_build_object('outcome', 'lost'); end if;
  if not holdfast.is_held(t, p_attempt) then
    return holdfast.lost(t, p_attempt, p_usage);
  end if;
  if p_next_index <> (select coalesce(sum(n), 0) from holdfast.chunks
      where tenant_id = p_tenant and turn_id = p_turn and attempt = p_attempt) then
    return json_build_object('outcome', 'mismatch');
  end if;
  perform holdfast.record_usage(p_tenant, p_session, t.user_id, p_turn, p_attempt, 'complete', p_usage, true);
  v_message := holdfast.settle(t, 'complete', p_parts, p_metadata, p_model, p_preview, null, true);
  v_seq := holdfast.write_event(p_tenant, p_session, 'message.ai_response', t,
    (coalesce(p_metadata, '{}') || jsonb_build_object('message', v_message))::json);
  return holdfast.answer('finished', p_tenant, p_session, v_seq);
end $$;

-- Ends an attempt without an outcome: the turn is queued again, due after `p_retry_ms`, still at the head of its lane.
-- Outcomes: requeued, lost.
create function holdfast.requeue(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_reason text,
  p_code text, p_retry_ms int, p_usage json) returns json language plpgsql as $$
declare t holdfast.turns; v_seq int;
begin
  t := holdfast.locked_turn(p_tenant, p_session, p_turn);
  if t.id is null then return json_build_object('outcome', 'lost'); end if;
  -- Not open: another round, which this attempt knows nothing of.
  if t.attempt = p_attempt and t.state = 'queued' and t.open then
    return holdfast.answer('requeued', p_tenant, p_session, (select max(seq) from holdfast.events
      where tenant_id = p_tenant and turn_id = p_turn and type = 'attempt.ended'));
  end if;
  if not holdfast.is_held(t, p_attempt) then
    return holdfast.lost(t, p_attempt, p_usage);
  end if;
  perform holdfast.record_usage(p_tenant, p_session, t.user_id, p_turn, p_attempt,
    case p_reason when 'handover' then 'handover' else 'failed' end, p_usage);
  update holdfast.turns set state = 'queued', lease_until = null, runner = null,
      due_at = clock_timestamp() + make_interval(secs => p_retry_ms / 1000.0),
      failures = failures + (p_reason = 'error')::int, crashes = case when p_reason = 'error' then 0 else crashes end,
      tokens = tokens + holdfast.tokens_in(p_usage),
      updated_at = clock_timestamp()
   where tenant_id = p_tenant and id = p_turn returning * into t;
  -- An earlier turn that is retried goes first.
  perform holdfast.promote(p_tenant, p_session, t.lane);
  v_seq := holdfast.write_event(p_tenant, p_session, 'attempt.ended', t,
    json_strip_nulls(json_build_object('turnId', p_turn, 'attempt', p_attempt, 'reason', p_reason, 'code', p_code,
      'retryAt', case when p_reason = 'error' then holdfast.iso(t.due_at) end)));
  return holdfast.answer('requeued', p_tenant, p_session, v_seq);
end $$;

-- Outcomes: failed, lost.
create function holdfast.fail(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_error jsonb, p_parts jsonb,
  p_metadata jsonb, p_model text, p_usage json) returns json language plpgsql as $$
declare t holdfast.turns; v_seq int;
begin
  t := holdfast.locked_turn(p_tenant, p_session, p_turn);
  if t.id is null then return json_build_object('outcome', 'lost'); end if;
  if t.attempt = p_attempt and t.state = 'failed' then
    return holdfast.answer('failed', p_tenant, p_session, holdfast.outcome_seq(t));
  end if;
  if not holdfast.is_held(t, p_attempt) then
    return holdfast.lost(t, p_attempt, p_usage);
  end if;
  perform holdfast.record_usage(p_tenant, p_session, t.user_id, p_turn, p_attempt, 'failed', p_usage);
  -- A statement of its own: in one expression with it, `answer` would not see the event.
  v_seq := holdfast.settle_failed(t, p_parts, p_metadata, p_model, p_error);
  return holdfast.answer('failed', p_tenant, p_session, v_seq);
end $$;

-- What an attempt that lost its turn was told by its provider: facts about money, kept whoever owns the turn now.
create function holdfast.report(p_tenant text, p_session text, p_user text, p_turn uuid, p_attempt int, p_usage json)
  returns void language plpgsql as $$
declare t holdfast.turns;
begin
  t := holdfast.locked_turn(p_tenant, p_session, p_turn);
  if t.id is null then
    -- Its session was deleted, and nothing is there to be locked: of two that say the same the days would count both.
    perform pg_advisory_xact_lock(hashtextextended(json_build_array('usage', p_tenant, p_turn)::text, 0));
  end if;
  perform holdfast.record_usage(p_tenant, p_session, p_user, p_turn, p_attempt, holdfast.lost_to(t, p_attempt), p_usage);
end $$;

-- Stop. The stopper has folded the chunks that it read: `p_next_index` of `p_attempt`. `p_user` is who asks now, and must have
-- the right to it; null: the server itself, or its operator. Outcomes: stopped; not_found; forbidden; late (an outcome
-- exists: it is answered); again (round, attempt or index moved, or the index counts another thing: read and fold again);
-- stopping (after the last try: the turn is marked, nothing is appended any more, and any process completes it). `p_round` is
-- the round that the stopper has read: a retry keeps the attempt's number until it begins. `p_open`: whether the index counts
-- chunks, or (not open) answers. `p_takes_back`: a message of the user's own that nobody has begun to answer is withdrawn.
create function holdfast.stop(p_tenant text, p_session text, p_turn uuid, p_attempt int, p_next_index int,
  p_parts jsonb, p_metadata jsonb, p_preview text, p_by text, p_reason text, p_last_try boolean, p_user text,
  p_round int, p_open boolean, p_takes_back boolean default true) returns json language plpgsql as $$
declare t holdfast.turns; v_message json; v_seq int; v_index int; v_by text; v_reason text;
begin
  t := holdfast.locked_turn(p_tenant, p_session, p_turn);
  if t.id is null or p_user is not null
      and not (holdfast.may_see(t.audience, p_user) and holdfast.may_write(p_tenant, p_session, p_user)) then
    return holdfast.refusal(p_tenant, p_session, p_user);
  end if;
  if t.round <> p_round then return json_build_object('outcome', 'again'); end if;
  if t.state in ('complete', 'failed', 'stopped') then
    return holdfast.answer('late', p_tenant, p_session, holdfast.outcome_seq(t));
  end if;
  v_index := case when t.open then (select coalesce(sum(n), 0) from holdfast.chunks
    where tenant_id = p_tenant and turn_id = p_turn and attempt = t.attempt) else holdfast.answers_of(t) end;
  if t.attempt <> p_attempt or (t.open, v_index) <> (p_open, p_next_index) then
    if not p_last_try then return json_build_object('outcome', 'again'); end if;
    update holdfast.turns set stopping = p_by, stopping_reason = p_reason, updated_at = clock_timestamp()
     where tenant_id = p_tenant and id = p_turn and stopping is null;
    return json_build_object('outcome', 'stopping');
  end if;
  -- Who completes a stop speaks for who asked first.
  v_by := p_by;
  v_reason := p_reason;
  if t.stopping is not null then
    v_by := t.stopping;
    v_reason := t.stopping_reason;
  end if;
  -- It leaves the conversation, and its text is theirs again. Anybody else only stops it.
  if p_takes_back and p_user = t.user_id and t.attempt = 0 and t.round = 1 then
    v_reason := 'withdrawn';
    perform holdfast.take_back(t);
  end if;
  v_message := holdfast.settle(t, 'stopped', p_parts, p_metadata, null, p_preview, null, jsonb_array_length(p_parts) > 0);
  v_seq := holdfast.write_event(p_tenant, p_session, 'message.stopped', t,
    (jsonb_build_object('userMessageId', t.message_id, 'message', v_message, 'by', v_by)
      || case when v_reason is null then '{}' else jsonb_build_object('reason', v_reason) end)::json);
  return holdfast.answer('stopped', p_tenant, p_session, v_seq);
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- The sweeper's three jobs. Each takes a few rows at a time and skips what is locked.

-- Turns that were never begun in time end as failed. One that cannot be ended keeps none of the others waiting: it is
-- answered with its `error`.
create function holdfast.expire(p_limit int, p_error jsonb) returns setof json language plpgsql as $$
declare cand record; t holdfast.turns; v_seq int;
begin
  for cand in select tenant_id, id, session_id from holdfast.turns where expires_at <= now() order by expires_at limit p_limit
  loop
    begin
      perform 1 from holdfast.sessions where tenant_id = cand.tenant_id and id = cand.session_id
        for no key update skip locked;
      continue when not found;
      select * into t from holdfast.turns where tenant_id = cand.tenant_id and id = cand.id
        and state in ('queued', 'waiting') and stopping is null and expires_at <= now() for no key update skip locked;
      continue when not found;
      v_seq := holdfast.settle_failed(t, coalesce((t.checkpoint -> 'parts')::jsonb, '[]'), null, null, p_error);
      return next json_build_object('tenantId', t.tenant_id, 'sessionId', t.session_id,
        'event', holdfast.answer('', t.tenant_id, t.session_id, v_seq) -> 'event');
    exception when others then
      return next json_build_object('tenantId', cand.tenant_id, 'sessionId', cand.session_id, 'error', sqlerrm);
    end;
  end loop;
end $$;

-- Heads of lanes that nobody made due.
create function holdfast.repair_lanes(p_limit int) returns int language plpgsql as $$
declare cand record; v_repaired int := 0;
begin
  for cand in
    select distinct q.tenant_id, q.session_id, q.lane from holdfast.turns q
     where q.state = 'queued' and q.due_at is null
       and not exists (select from holdfast.turns e where holdfast.goes_before(e, q))
     limit p_limit
  loop
    perform 1 from holdfast.sessions where tenant_id = cand.tenant_id and id = cand.session_id
      for no key update skip locked;
    continue when not found;
    perform holdfast.promote(cand.tenant_id, cand.session_id, cand.lane);
    v_repaired := v_repaired + 1;
  end loop;
  return v_repaired;
end $$;

-- Chunks that a later event stands for since a minute, and what no attempt goes on from any more: the checkpoint of a turn
-- that has its outcome, and what came of the calls of a round that is over. (That they ran stays.) The events and the message
-- hold both. Takes turn rows, and then those of their calls.
create function holdfast.sweep_chunks(p_limit int) returns int language plpgsql as $$
declare v_swept int;
begin
  with due as materialized (
    select tenant_id, id, attempt, open, round, state in ('complete', 'failed', 'stopped') as is_over
      from holdfast.turns where sweep_at <= now() order by tenant_id, id limit p_limit
      for no key update skip locked),
  gone as (
    delete from holdfast.chunks c using due where c.tenant_id = due.tenant_id and c.turn_id = due.id
      and (c.attempt < due.attempt or not due.open)),
  told as (
    update holdfast.tool_calls c set output = null from due where c.tenant_id = due.tenant_id and c.turn_id = due.id
      and c.output is not null and (due.is_over or c.round < due.round)),
  done as (
    update holdfast.turns t set sweep_at = null, checkpoint = case when not due.is_over then t.checkpoint end
      from due where t.tenant_id = due.tenant_id and t.id = due.id)
  select count(*) into v_swept from due;
  return v_swept;
end $$;

-- After an append whose answer was lost. The locks wait until the lost statement has committed or gone; the second
-- statement sees which.
create function holdfast.stored_chunks(p_tenants text[], p_turns uuid[], p_attempts int[]) returns setof json
  language plpgsql as $$
begin
  perform 1 from holdfast.turns t join unnest(p_tenants, p_turns) x(tenant, turn) on t.tenant_id = x.tenant and t.id = x.turn
   order by t.tenant_id, t.id for no key update of t;
  return query select json_build_object('turnId', x.turn, 'nextIndex', coalesce((
      select max(c.index + c.n) from holdfast.chunks c
       where c.tenant_id = x.tenant and c.turn_id = x.turn and c.attempt = x.attempt), 0))
    from unnest(p_tenants, p_turns, p_attempts) x(tenant, turn, attempt);
end $$;
