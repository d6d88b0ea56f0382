-- name: beat
-- This process is alive; its row comes back if a sweeper took it for dead.
insert into backstay.gateway_process (id, started_at, seen_at) values (%(id)s, %(now)s, %(now)s)
on conflict (id) do update set seen_at = excluded.seen_at;

-- name: leave
-- A process that stops in good order leaves nothing for the sweeper.
delete from backstay.gateway_process p where p.id = %(id)s
  and not exists (select from backstay.call c where c.process_id = p.id and c.state = 'open');

-- name: windows
-- The running windows of every budget that bounds these subjects, locked in sorted order. Missing ones are made; one
-- that another process makes at this moment comes without figures (`spent` is null): ask again.
with wanted as (
    select distinct b.tenant_id, b.id, b.scope, b.subject, b.amount, b.period, b.hard,
           case b.period when 'total' then 'epoch'::timestamptz
                else date_trunc(b.period, %(now)s::timestamptz, 'UTC') end as starts_at
    from json_to_recordset(%(subjects)s::json) as given (tenant_id uuid, scope text, subject text)
    join backstay.budget b on b.tenant_id = given.tenant_id and b.scope = given.scope and b.subject = given.subject),
made as (
    insert into backstay.budget_window (tenant_id, budget_id, starts_at)
    select m.tenant_id, m.id, m.starts_at from wanted m
    where not exists (select from backstay.budget_window w
        where w.tenant_id = m.tenant_id and w.budget_id = m.id and w.starts_at = m.starts_at)
    order by 1, 2, 3
    on conflict (tenant_id, budget_id, starts_at) do nothing
    returning tenant_id, budget_id, spent, held),
locked as (
    select w.tenant_id, w.budget_id, w.spent, w.held
    from backstay.budget_window w
    join wanted m on w.tenant_id = m.tenant_id and w.budget_id = m.id and w.starts_at = m.starts_at
    order by w.tenant_id, w.budget_id, w.starts_at
    for update of w)
select m.tenant_id, m.id as budget_id, m.scope, m.subject, m.amount, m.period, m.hard, m.starts_at, f.spent, f.held
from wanted m
left join (select * from locked union all select * from made) f on f.tenant_id = m.tenant_id and f.budget_id = m.id;

-- name: admit
-- The calls of one batch with their holds; the windows of the holds are locked by this transaction.
with call as (
    insert into backstay.call
        (tenant_id, id, process_id, principal_id, key_id, feature, end_user, run_id, kind, provider, model, streamed,
         idempotency, reserved, state, started_at)
    select tenant_id, id, %(process_id)s::uuid, principal_id, key_id, feature, end_user, run_id, kind, provider, model,
           streamed, idempotency, reserved, 'open', started_at
    from json_to_recordset(%(calls)s::json) as given (
        tenant_id uuid, id uuid, principal_id uuid, key_id uuid, feature text, end_user text, run_id uuid, kind text,
        provider text, model text, streamed boolean, idempotency text, reserved numeric, started_at timestamptz)),
fresh as (
    insert into backstay.hold (tenant_id, call_id, budget_id, starts_at, amount)
    select * from json_to_recordset(%(holds)s::json) as given (
        tenant_id uuid, call_id uuid, budget_id uuid, starts_at timestamptz, amount numeric)
    returning tenant_id, budget_id, starts_at, amount)
update backstay.budget_window w set held = w.held + h.amount
from (select tenant_id, budget_id, starts_at, sum(amount) as amount from fresh group by 1, 2, 3) h
where w.tenant_id = h.tenant_id and w.budget_id = h.budget_id and w.starts_at = h.starts_at;

-- name: lock_windows
-- Windows of calls that end, locked in sorted order.
select 1 from backstay.budget_window w
join json_to_recordset(%(windows)s::json) as given (tenant_id uuid, budget_id uuid, starts_at timestamptz)
  on w.tenant_id = given.tenant_id and w.budget_id = given.budget_id and w.starts_at = given.starts_at
order by w.tenant_id, w.budget_id, w.starts_at
for update of w;

-- name: settle
-- How calls ended, however late and however often this is said: a ledger row stands once, and only a new one is spent.
-- The spend goes to the windows under which each call was admitted, the holds that are still there go back.
with ended as (
    select * from json_to_recordset(%(calls)s::json) as given (
        tenant_id uuid, id uuid, outcome text, at timestamptz, provider text, model text, input_tokens bigint,
        output_tokens bigint, cost numeric)),
bound as (
    select * from json_to_recordset(%(windows)s::json) as given (
        tenant_id uuid, call_id uuid, budget_id uuid, starts_at timestamptz)),
paid as (
    insert into backstay.ledger
        (tenant_id, call_id, attempt, at, provider, model, feature, end_user, key_id, outcome, input_tokens,
         output_tokens, cached_tokens, reasoning_tokens, estimated, cost, seconds)
    select * from json_to_recordset(%(attempts)s::json) as given (
        tenant_id uuid, call_id uuid, attempt int, at timestamptz, provider text, model text, feature text,
        end_user text, key_id uuid, outcome text, input_tokens bigint, output_tokens bigint, cached_tokens bigint,
        reasoning_tokens bigint, estimated boolean, cost numeric, seconds double precision)
    on conflict (tenant_id, call_id, attempt) do nothing
    returning tenant_id, call_id, cost),
gone as (
    delete from backstay.hold h using ended e where h.tenant_id = e.tenant_id and h.call_id = e.id
    returning h.tenant_id, h.budget_id, h.starts_at, h.amount),
closed as (
    update backstay.call c
    set state = 'finished', outcome = e.outcome, finished_at = e.at, input_tokens = e.input_tokens,
        output_tokens = e.output_tokens, cost = e.cost, provider = e.provider, model = e.model
    from ended e where c.tenant_id = e.tenant_id and c.id = e.id and c.state <> 'finished'),
moved as (
    select tenant_id, budget_id, starts_at, sum(spent) as spent, sum(held) as held
    from (select b.tenant_id, b.budget_id, b.starts_at, p.cost as spent, 0 as held
          from paid p join bound b on b.tenant_id = p.tenant_id and b.call_id = p.call_id
          union all
          select tenant_id, budget_id, starts_at, 0, amount from gone) part
    group by 1, 2, 3)
update backstay.budget_window w set spent = w.spent + m.spent, held = w.held - m.held
from moved m
where w.tenant_id = m.tenant_id and w.budget_id = m.budget_id and w.starts_at = m.starts_at;

-- name: dead_processes
-- Processes that are silent for too long; one that another sweeper deals with is passed over.
select id from backstay.gateway_process where seen_at < %(before)s and id <> %(own)s
order by id limit 16 for update skip locked;

-- name: open_calls
-- Some calls that a dead process left open, with the windows that they hold from.
select c.tenant_id, c.id, c.provider, c.model, c.run_id,
       coalesce(array_agg(h.budget_id) filter (where h.budget_id is not null), '{}') as budget_ids,
       coalesce(array_agg(h.starts_at) filter (where h.budget_id is not null), '{}') as starts_ats
from backstay.call c
left join backstay.hold h on h.tenant_id = c.tenant_id and h.call_id = c.id
where c.process_id = %(process_id)s and c.state = 'open'
group by 1, 2 order by 1, 2 limit %(limit)s;

-- name: abandon
-- Marks calls of a dead process and gives back what they hold; one that was settled in the meantime stays as it is.
with left_open as (
    update backstay.call c set state = 'abandoned', outcome = 'abandoned', finished_at = %(now)s
    from json_to_recordset(%(calls)s::json) as given (tenant_id uuid, id uuid)
    where c.tenant_id = given.tenant_id and c.id = given.id and c.state = 'open'
    returning c.tenant_id, c.id),
gone as (
    delete from backstay.hold h using left_open c where h.tenant_id = c.tenant_id and h.call_id = c.id
    returning h.tenant_id, h.budget_id, h.starts_at, h.amount),
given_back as (
    update backstay.budget_window w set held = w.held - g.amount
    from (select tenant_id, budget_id, starts_at, sum(amount) as amount from gone group by 1, 2, 3) g
    where w.tenant_id = g.tenant_id and w.budget_id = g.budget_id and w.starts_at = g.starts_at)
select tenant_id, id from left_open;

-- name: forget_process
-- A dead process that left no open call.
delete from backstay.gateway_process where id = %(id)s;

-- name: add_budget
-- Returns nothing when there is a budget of this scope, subject and period already.
insert into backstay.budget (tenant_id, id, scope, subject, amount, period, hard, created_at)
values (%(tenant_id)s, %(id)s, %(scope)s, %(subject)s, %(amount)s, %(period)s, %(hard)s, %(now)s)
on conflict (tenant_id, scope, subject, period) do nothing
returning id;

-- name: budgets
-- A page of budgets with their running windows, oldest first.
select b.id, b.scope, nullif(b.subject, '') as subject, b.amount as limit, b.period as window, b.hard, b.created_at,
       coalesce(w.spent, 0) as spent, coalesce(w.held, 0) as held
from backstay.budget b
left join backstay.budget_window w on w.tenant_id = b.tenant_id and w.budget_id = b.id
  and w.starts_at = case b.period when 'total' then 'epoch'::timestamptz
      else date_trunc(b.period, %(now)s::timestamptz, 'UTC') end
where b.tenant_id = %(tenant_id)s and (%(after)s::uuid is null or b.id > %(after)s::uuid)
order by b.id limit %(limit)s;

-- name: budget
-- One budget with its running window.
select b.id, b.scope, nullif(b.subject, '') as subject, b.amount as limit, b.period as window, b.hard, b.created_at,
       coalesce(w.spent, 0) as spent, coalesce(w.held, 0) as held
from backstay.budget b
left join backstay.budget_window w on w.tenant_id = b.tenant_id and w.budget_id = b.id
  and w.starts_at = case b.period when 'total' then 'epoch'::timestamptz
      else date_trunc(b.period, %(now)s::timestamptz, 'UTC') end
where b.tenant_id = %(tenant_id)s and b.id = %(id)s;

-- name: delete_budget
-- The budget and its windows. Calls that hold from it go on, bounded by it no longer.
delete from backstay.budget where tenant_id = %(tenant_id)s and id = %(id)s;

-- name: spend
-- What each feature, user, key or model used and cost since a moment.
select case %(by)s::text when 'feature' then feature when 'user' then end_user when 'key' then key_id::text
            else provider || ':' || model end as name,
       count(distinct call_id)::int as calls, sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens, sum(cost) as cost
from backstay.ledger
where tenant_id = %(tenant_id)s and (%(since)s::timestamptz is null or at >= %(since)s::timestamptz)
group by 1 order by sum(cost) desc, 1 nulls last limit 1000;

-- name: calls
-- A page of calls, newest first.
select id, started_at, finished_at, state, outcome, provider, model, feature, end_user as user, key_id as key,
       run_id as run, input_tokens, output_tokens, cost
from backstay.call
where tenant_id = %(tenant_id)s and (%(after)s::uuid is null or id < %(after)s::uuid)
  and (%(run_id)s::uuid is null or run_id = %(run_id)s::uuid)
order by id desc limit %(limit)s;
