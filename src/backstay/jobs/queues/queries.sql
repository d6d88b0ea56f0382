-- name: pause_queue
-- Pauses a queue, or lets it go on.
insert into backstay.queue (name, paused) values (%(name)s::text, %(paused)s::boolean)
on conflict (name) do update set paused = excluded.paused;

-- name: limit_queue
-- What a queue may run at once and start in a time; null is no limit.
insert into backstay.queue (name, max_running, starts, seconds)
values (%(name)s::text, %(max_running)s::integer, %(starts)s::integer, %(seconds)s::float8)
on conflict (name) do update set
    max_running = excluded.max_running, starts = excluded.starts, seconds = excluded.seconds;

-- name: queue_row
-- The settings of a queue.
select name, paused, max_running, starts, seconds from backstay.queue where name = %(name)s::text;

-- name: lock_queue
-- The queue's row, made when it is missing: a tenant's limit in it is kept under its lock.
insert into backstay.queue (name) values (%(name)s::text) on conflict (name) do update set name = excluded.name;

-- name: set_share
-- What a tenant gets of a queue.
insert into backstay.tenant_queue (tenant_id, queue, weight, max_running)
values (%(tenant_id)s::uuid, %(queue)s::text, %(weight)s::real, %(max_running)s::integer)
on conflict (tenant_id, queue) do update set weight = excluded.weight, max_running = excluded.max_running;

-- name: drop_share
-- Back to what every tenant has.
delete from backstay.tenant_queue where tenant_id = %(tenant_id)s::uuid and queue = %(queue)s::text;

-- name: shares
-- What someone has set for tenants in a queue.
select tenant_id as tenant, weight, max_running from backstay.tenant_queue where queue = %(queue)s::text
order by tenant_id limit 1000;

-- name: declare_limits
-- What handlers were registered with; the last word stands.
insert into backstay.job_limit (name, starts, seconds, key_running)
select r.name, r.starts, r.seconds, r.key_running
from jsonb_to_recordset(%(rows)s::jsonb) as r(name text, starts integer, seconds float8, key_running integer)
order by r.name
on conflict (name) do update set
    starts = excluded.starts, seconds = excluded.seconds, key_running = excluded.key_running;

-- name: drop_limits
-- Handlers that are registered without a limit by now.
delete from backstay.job_limit where name = any(%(names)s::text[]);

-- name: prune_starts
-- Starts that no window counts any more.
delete from backstay.job_start s
where s.at < clock_timestamp() - coalesce(
    case s.kind when 'queue' then (select q.seconds from backstay.queue q where q.name = s.name)
                else (select l.seconds from backstay.job_limit l where l.name = s.name) end, 0) * interval '1 second';
