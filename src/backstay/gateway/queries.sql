-- name: beat
-- This process is alive; its row comes back if a sweeper took it for dead.
insert into backstay.gateway_process (id, started_at, seen_at) values (%(id)s, %(now)s, %(now)s)
on conflict (id) do update set seen_at = excluded.seen_at;

-- name: leave
-- A process that stops in good order leaves nothing for the sweeper.
delete from backstay.gateway_process p where p.id = %(id)s
  and not exists (select from backstay.call c where c.process_id = p.id and c.state = 'open');

-- name: windows
-- The running windows of every budget and limit that bounds these subjects, locked in sorted order, with their newest
-- figures; one that is missing comes without (`spent` is null).
with wanted as materialized (
    select b.tenant_id, b.id, b.scope, b.subject, b.unit, b.amount, b.period, b.hard,
           case b.period when 'total' then 'epoch'::timestamptz
                else date_trunc(b.period, %(now)s::timestamptz, 'UTC') end as starts_at
    from json_to_recordset(%(subjects)s::json) as given (tenant_id uuid, scope text, subject text)
    join backstay.budget b on b.tenant_id = given.tenant_id and b.scope = given.scope and b.subject = given.subject),
locked as materialized (
    select w.tenant_id, w.budget_id, w.spent, w.held
    from backstay.budget_window w
    join wanted m on w.tenant_id = m.tenant_id and w.budget_id = m.id and w.starts_at = m.starts_at
    order by w.tenant_id, w.budget_id, w.starts_at
    for update of w)
select m.tenant_id, m.id as budget_id, m.scope, m.subject, m.unit, m.amount, m.period, m.hard, m.starts_at,
       f.spent, f.held
from wanted m left join locked f on f.tenant_id = m.tenant_id and f.budget_id = m.id;

-- name: begin_windows
-- Makes the running windows that are missing. With a new one go those that ended long ago, which no process takes for the
-- running one, whatever its clock says.
with wanted as (
    select distinct b.tenant_id, b.id, b.period,
           case b.period when 'total' then 'epoch'::timestamptz
                else date_trunc(b.period, %(now)s::timestamptz, 'UTC') end as starts_at
    from json_to_recordset(%(subjects)s::json) as given (tenant_id uuid, scope text, subject text)
    join backstay.budget b on b.tenant_id = given.tenant_id and b.scope = given.scope and b.subject = given.subject),
made as (
    insert into backstay.budget_window (tenant_id, budget_id, starts_at)
    select tenant_id, id, starts_at from wanted order by 1, 2, 3
    on conflict (tenant_id, budget_id, starts_at) do nothing
    returning tenant_id, budget_id, starts_at)
delete from backstay.budget_window w using made m join wanted b on b.tenant_id = m.tenant_id and b.id = m.budget_id
where w.tenant_id = m.tenant_id and w.budget_id = m.budget_id and w.held = 0
  and w.starts_at < m.starts_at - case b.period when 'month' then interval '62 days' else interval '2 days' end;

-- name: admit
-- The calls of one batch with their holds, and the requests that are counted for good; the windows of both are locked by
-- this transaction.
with call as (
    insert into backstay.call
        (tenant_id, id, process_id, principal_id, key_id, feature, end_user, run_id, kind, provider, model, route,
         streamed, idempotency, reserved, state, started_at)
    select tenant_id, id, %(process_id)s::uuid, principal_id, key_id, feature, end_user, run_id, kind, provider, model,
           route, streamed, idempotency, reserved, 'open', started_at
    from json_to_recordset(%(calls)s::json) as given (
        tenant_id uuid, id uuid, principal_id uuid, key_id uuid, feature text, end_user text, run_id uuid, kind text,
        provider text, model text, route text, streamed boolean, idempotency text, reserved numeric,
        started_at timestamptz)),
fresh as (
    insert into backstay.hold (tenant_id, call_id, budget_id, starts_at, amount)
    select * from json_to_recordset(%(holds)s::json) as given (
        tenant_id uuid, call_id uuid, budget_id uuid, starts_at timestamptz, amount numeric)
    returning tenant_id, budget_id, starts_at, amount),
moved as (
    select tenant_id, budget_id, starts_at, sum(held) as held, sum(spent) as spent
    from (select tenant_id, budget_id, starts_at, amount as held, 0 as spent from fresh
          union all
          select tenant_id, budget_id, starts_at, 0, 1 from json_to_recordset(%(requests)s::json) as given (
              tenant_id uuid, budget_id uuid, starts_at timestamptz)) part
    group by 1, 2, 3)
update backstay.budget_window w set held = w.held + m.held, spent = w.spent + m.spent
from moved m
where w.tenant_id = m.tenant_id and w.budget_id = m.budget_id and w.starts_at = m.starts_at;

-- name: lock_windows
-- Windows of calls that end, locked in sorted order.
select 1 from backstay.budget_window w
join json_to_recordset(%(windows)s::json) as given (tenant_id uuid, budget_id uuid, starts_at timestamptz)
  on w.tenant_id = given.tenant_id and w.budget_id = given.budget_id and w.starts_at = given.starts_at
order by w.tenant_id, w.budget_id, w.starts_at
for update of w;

-- name: settle
-- How calls ended, however late and however often this is said: a ledger row stands once, and only a new one is spent.
-- What was used goes to the windows from which each call holds, to those of a model only what that model used; the holds
-- that are still there go back. Returns the
-- budgets whose spend has reached a threshold of which nobody was told; the windows are locked by this transaction, so
-- what is read of them here is their newest state. `count` is how many calls end: said as a limit, it has the planner
-- look up few calls by their keys, where it would else read a whole table that was small when it planned.
with ended as (
    select * from json_to_recordset(%(calls)s::json) as given (
        tenant_id uuid, id uuid, outcome text, at timestamptz, provider text, model text, input_tokens bigint,
        output_tokens bigint, cost numeric, cached text, saved_by_cache numeric, saved_by_route numeric,
        rescued boolean)
    limit %(count)s),
bound as (
    select * from json_to_recordset(%(windows)s::json) as given (
        tenant_id uuid, call_id uuid, budget_id uuid, starts_at timestamptz, route text)),
paid as (
    insert into backstay.ledger
        (tenant_id, call_id, attempt, at, provider, model, feature, end_user, key_id, outcome, input_tokens,
         output_tokens, cached_tokens, reasoning_tokens, written_tokens, written_hour_tokens, input_audio_tokens,
         output_audio_tokens, input_image_tokens, output_image_tokens, web_searches, estimated, cost, seconds)
    select * from json_to_recordset(%(attempts)s::json) as given (
        tenant_id uuid, call_id uuid, attempt int, at timestamptz, provider text, model text, feature text,
        end_user text, key_id uuid, outcome text, input_tokens bigint, output_tokens bigint, cached_tokens bigint,
        reasoning_tokens bigint, written_tokens bigint, written_hour_tokens bigint, input_audio_tokens bigint,
        output_audio_tokens bigint, input_image_tokens bigint, output_image_tokens bigint, web_searches bigint,
        estimated boolean, cost numeric, seconds double precision)
    on conflict (tenant_id, call_id, attempt) do nothing
    returning tenant_id, call_id, provider, model, cost, input_tokens + output_tokens as tokens),
gone as (
    delete from backstay.hold h using ended e where h.tenant_id = e.tenant_id and h.call_id = e.id
    returning h.tenant_id, h.budget_id, h.starts_at, h.amount),
closed as (
    update backstay.call c
    set state = 'finished', outcome = e.outcome, finished_at = e.at, input_tokens = e.input_tokens,
        output_tokens = e.output_tokens, cost = e.cost, provider = e.provider, model = e.model, cached = e.cached,
        saved_by_cache = e.saved_by_cache, saved_by_route = e.saved_by_route, rescued = e.rescued
    from ended e where c.tenant_id = e.tenant_id and c.id = e.id and c.state <> 'finished'
    returning c.tenant_id, c.id, c.output_tokens),
learned as (
    insert into backstay.recent_output as r (tenant_id, feature, provider, model, tokens)
    select c.tenant_id, given.feature, given.provider, given.model, array_agg(c.output_tokens order by c.id)
    from json_to_recordset(%(expected)s::json) as given (
        tenant_id uuid, call_id uuid, feature text, provider text, model text)
    join closed c on c.tenant_id = given.tenant_id and c.id = given.call_id
    group by 1, 2, 3, 4 order by 1, 2, 3, 4
    on conflict (tenant_id, feature, provider, model) do update
    set tokens = (r.tokens || excluded.tokens)[cardinality(r.tokens) + cardinality(excluded.tokens) - 99:]),
moved as (
    select tenant_id, budget_id, starts_at, sum(usd) as usd, sum(tokens) as tokens, sum(held) as held
    from (select b.tenant_id, b.budget_id, b.starts_at, p.cost as usd, p.tokens, 0 as held
          from paid p
          join bound b on b.tenant_id = p.tenant_id and b.call_id = p.call_id
          join backstay.budget g on g.tenant_id = b.tenant_id and g.id = b.budget_id
          where g.scope <> 'model' or g.subject in (p.provider || ':' || p.model, b.route)
          union all
          select tenant_id, budget_id, starts_at, 0, 0, amount from gone) part
    group by 1, 2, 3),
counted as (
    select m.tenant_id, m.budget_id, m.starts_at, m.held, used.more, b.scope, b.subject, b.amount, b.period, b.hard,
           w.spent + used.more as spent, w.told,
           (select max(percent) from unnest(%(thresholds)s::smallint[]) percent
            where b.unit = 'usd' and w.spent + used.more > 0 and (w.spent + used.more) * 100 >= b.amount * percent
           ) as reached
    from moved m
    join backstay.budget b on b.tenant_id = m.tenant_id and b.id = m.budget_id
    join backstay.budget_window w
      on w.tenant_id = m.tenant_id and w.budget_id = m.budget_id and w.starts_at = m.starts_at
    cross join lateral (select case b.unit when 'usd' then m.usd when 'tokens' then m.tokens else 0 end as more) used),
written as (
    update backstay.budget_window w
    set spent = w.spent + c.more, held = w.held - c.held, told = greatest(w.told, c.reached)
    from counted c
    where w.tenant_id = c.tenant_id and w.budget_id = c.budget_id and w.starts_at = c.starts_at)
select tenant_id, budget_id, scope, nullif(subject, '') as subject, amount, period, hard, starts_at, spent, told, reached
from counted where reached > told;

-- name: held_windows
-- The windows from which these calls hold, whichever are running now, locked in sorted order.
select w.tenant_id, w.budget_id, b.scope, b.subject, b.unit, b.amount, b.period, b.hard, w.starts_at, w.spent, w.held
from (select distinct * from json_to_recordset(%(windows)s::json) as given (
    tenant_id uuid, budget_id uuid, starts_at timestamptz)) given
join backstay.budget_window w
  on w.tenant_id = given.tenant_id and w.budget_id = given.budget_id and w.starts_at = given.starts_at
join backstay.budget b on b.tenant_id = w.tenant_id and b.id = w.budget_id
order by w.tenant_id, w.budget_id, w.starts_at
for update of w;

-- name: extend
-- Running calls hold more; returns those that still run. The windows are locked by this transaction.
with still as (
    update backstay.call c set reserved = c.reserved + more.usd
    from (select tenant_id, id, sum(usd) as usd
          from json_to_recordset(%(calls)s::json) as given (tenant_id uuid, id uuid, usd numeric) group by 1, 2) more
    where c.tenant_id = more.tenant_id and c.id = more.id and c.state = 'open'
    returning c.tenant_id, c.id),
grown as (
    update backstay.hold h set amount = h.amount + more.amount
    from (select tenant_id, call_id, budget_id, sum(amount) as amount
          from json_to_recordset(%(holds)s::json) as given (
              tenant_id uuid, call_id uuid, budget_id uuid, amount numeric) group by 1, 2, 3) more
    join still s on s.tenant_id = more.tenant_id and s.id = more.call_id
    where h.tenant_id = more.tenant_id and h.call_id = more.call_id and h.budget_id = more.budget_id
    returning h.tenant_id, h.budget_id, h.starts_at, more.amount),
moved as (
    update backstay.budget_window w set held = w.held + g.amount
    from (select tenant_id, budget_id, starts_at, sum(amount) as amount from grown group by 1, 2, 3) g
    where w.tenant_id = g.tenant_id and w.budget_id = g.budget_id and w.starts_at = g.starts_at)
select tenant_id, id from still;

-- name: expected_outputs
-- The output tokens within which 19 of 20 recent answers of each kind stayed; nothing for a kind that had none.
select r.tenant_id, r.feature, r.provider, r.model,
       (select percentile_disc(0.95) within group (order by t) from unnest(r.tokens) t) as tokens
from json_to_recordset(%(kinds)s::json) as given (tenant_id uuid, feature text, provider text, model text)
join backstay.recent_output r on r.tenant_id = given.tenant_id and r.feature = given.feature
  and r.provider = given.provider and r.model = given.model;

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
-- Returns nothing when there is one of this scope, subject, unit and period already.
insert into backstay.budget (tenant_id, id, scope, subject, unit, amount, period, hard, created_at)
values (%(tenant_id)s, %(id)s, %(scope)s, %(subject)s, %(unit)s, %(amount)s, %(period)s, %(hard)s, %(now)s)
on conflict (tenant_id, scope, subject, unit, period) do nothing
returning id;

-- name: budgets
-- A page of budgets or limits, by their units, with their running windows, oldest first.
select b.id, b.scope, nullif(b.subject, '') as subject, b.unit, b.amount, b.period, b.hard, b.created_at,
       coalesce(w.spent, 0) as spent, coalesce(w.held, 0) as held
from backstay.budget b
left join backstay.budget_window w on w.tenant_id = b.tenant_id and w.budget_id = b.id
  and w.starts_at = case b.period when 'total' then 'epoch'::timestamptz
      else date_trunc(b.period, %(now)s::timestamptz, 'UTC') end
where b.tenant_id = %(tenant_id)s and b.unit = any (%(units)s) and (%(after)s::uuid is null or b.id > %(after)s::uuid)
order by b.id limit %(limit)s;

-- name: budget
-- One budget or limit with its running window.
select b.id, b.scope, nullif(b.subject, '') as subject, b.unit, b.amount, b.period, b.hard, b.created_at,
       coalesce(w.spent, 0) as spent, coalesce(w.held, 0) as held
from backstay.budget b
left join backstay.budget_window w on w.tenant_id = b.tenant_id and w.budget_id = b.id
  and w.starts_at = case b.period when 'total' then 'epoch'::timestamptz
      else date_trunc(b.period, %(now)s::timestamptz, 'UTC') end
where b.tenant_id = %(tenant_id)s and b.id = %(id)s and b.unit = any (%(units)s);

-- name: change_budget
-- Another amount. Thresholds that the running window's spend has not reached of the new one will be told of again.
with changed as (
    update backstay.budget set amount = %(amount)s
    where tenant_id = %(tenant_id)s and id = %(id)s and unit = any (%(units)s)
    returning tenant_id, id, amount, period),
armed as (
    update backstay.budget_window w
    set told = coalesce((select max(percent) from unnest(%(thresholds)s::smallint[]) percent
                         where percent <= w.told and w.spent * 100 >= c.amount * percent), 0)
    from changed c
    where w.tenant_id = c.tenant_id and w.budget_id = c.id and w.told > 0
      and w.starts_at = case c.period when 'total' then 'epoch'::timestamptz
          else date_trunc(c.period, %(now)s::timestamptz, 'UTC') end)
select id from changed;

-- name: delete_budget
-- A budget or limit and its windows. Calls that hold from it go on, bounded by it no longer.
delete from backstay.budget where tenant_id = %(tenant_id)s and id = %(id)s and unit = any (%(units)s);

-- name: close_purse
-- Removes the budget of a run and tells what had become of it.
with gone as (
    delete from backstay.budget
    where tenant_id = %(tenant_id)s and scope = 'run' and subject = %(run_id)s::uuid::text
    returning tenant_id, id, amount)
select g.id, g.amount, coalesce(w.spent, 0) as spent, coalesce(w.held, 0) as held
from gone g left join backstay.budget_window w on w.tenant_id = g.tenant_id and w.budget_id = g.id;

-- name: spend
-- What each feature, user, key, model or day used and cost, by the filters that are not null; dearest first, or the
-- newest day first.
select case %(by)s::text when 'feature' then feature when 'user' then end_user when 'key' then key_id::text
            when 'day' then to_char(at at time zone 'UTC', 'YYYY-MM-DD') else provider || ':' || model end as name,
       count(distinct call_id)::int as calls, sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens, sum(cost) as cost
from backstay.ledger
where tenant_id = %(tenant_id)s
  and (%(since)s::timestamptz is null or at >= %(since)s::timestamptz)
  and (%(until)s::timestamptz is null or at < %(until)s::timestamptz)
  and (%(feature)s::text is null or feature = %(feature)s::text)
  and (%(end_user)s::text is null or end_user = %(end_user)s::text)
  and (%(key_id)s::uuid is null or key_id = %(key_id)s::uuid)
  and (%(target)s::text is null or provider || ':' || model = %(target)s::text)
group by 1
order by case when %(by)s::text = 'day' then to_char(min(at) at time zone 'UTC', 'YYYY-MM-DD') end desc, sum(cost) desc,
         1 nulls last
limit 1000;

-- name: calls
-- A page of calls, newest first.
select id, started_at, finished_at, state, outcome, provider, model, feature, end_user as user, key_id as key,
       run_id as run, input_tokens, output_tokens, cost, route, cached, rescued
from backstay.call
where tenant_id = %(tenant_id)s and (%(after)s::uuid is null or id < %(after)s::uuid)
  and (%(run_id)s::uuid is null or run_id = %(run_id)s::uuid)
order by id desc limit %(limit)s;

-- name: call
-- One call.
select id, started_at, finished_at, state, outcome, provider, model, feature, end_user as user, key_id as key,
       run_id as run, input_tokens, output_tokens, cost, route, cached, rescued
from backstay.call where tenant_id = %(tenant_id)s and id = %(id)s;

-- name: savings
-- What keeping answers, routing and falling back have saved, of calls that ended in a span of time.
select count(*)::int as calls, coalesce(sum(cost), 0) as cost,
       count(*) filter (where cached is not null)::int as cached, coalesce(sum(saved_by_cache), 0) as by_cache,
       count(*) filter (where saved_by_route > 0)::int as routed, coalesce(sum(saved_by_route), 0) as by_route,
       count(*) filter (where rescued)::int as rescued
from backstay.call
where tenant_id = %(tenant_id)s and state = 'finished'
  and (%(since)s::timestamptz is null or finished_at >= %(since)s::timestamptz)
  and (%(until)s::timestamptz is null or finished_at < %(until)s::timestamptz);

-- name: spend_lines
-- As spend, by several of them at once and without an end: what is not asked for is null.
select case when 'day' = any (%(by)s::text[]) then to_char(at at time zone 'UTC', 'YYYY-MM-DD') end as day,
       case when 'feature' = any (%(by)s::text[]) then feature end as feature,
       case when 'user' = any (%(by)s::text[]) then end_user end as user,
       case when 'model' = any (%(by)s::text[]) then provider || ':' || model end as model,
       count(distinct call_id)::bigint as calls, sum(input_tokens)::bigint as input_tokens,
       sum(output_tokens)::bigint as output_tokens, sum(cost) as cost
from backstay.ledger
where tenant_id = %(tenant_id)s and at >= %(since)s::timestamptz and at < %(until)s::timestamptz
group by 1, 2, 3, 4
order by 1 desc nulls last, sum(cost) desc, 2, 3, 4;

-- name: prune_calls
-- Calls that ended before a moment, oldest first, with their lines in the ledger. One that holds something stays.
with old as materialized (
    select c.id from backstay.call c
    where c.tenant_id = %(tenant_id)s::uuid and c.state <> 'open' and c.finished_at < %(before)s::timestamptz
      and not exists (select from backstay.hold h where h.tenant_id = c.tenant_id and h.call_id = c.id)
    order by c.finished_at limit %(limit)s::bigint
    for update of c skip locked
), lines as (
    delete from backstay.ledger l using old o where l.tenant_id = %(tenant_id)s::uuid and l.call_id = o.id
)
delete from backstay.call c using old o where c.tenant_id = %(tenant_id)s::uuid and c.id = o.id;
