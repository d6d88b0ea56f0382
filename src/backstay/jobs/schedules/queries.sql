-- name: put
-- Makes or changes a schedule. One that is only changed in what it enqueues keeps its next time. Returns the row.
insert into backstay.schedule (tenant_id, name, job, input, cron, timezone, queue, remote, priority, missed, overlap, next_at,
                               created_at, updated_at)
values (%(tenant_id)s::uuid, %(name)s::text, %(job)s::text, %(input)s::jsonb, %(cron)s::text, %(timezone)s::text,
        %(queue)s::text, %(remote)s::boolean, %(priority)s::smallint, %(missed)s::text, %(overlap)s::boolean, %(next_at)s::timestamptz,
        %(now)s::timestamptz, %(now)s::timestamptz)
on conflict (tenant_id, name) do update set
    job = excluded.job, input = excluded.input, cron = excluded.cron, timezone = excluded.timezone,
    queue = excluded.queue, remote = excluded.remote, priority = excluded.priority, missed = excluded.missed, overlap = excluded.overlap,
    next_at = case when (schedule.cron, schedule.timezone) = (excluded.cron, excluded.timezone)
                   then schedule.next_at else excluded.next_at end,
    updated_at = case when (schedule.job, schedule.input, schedule.cron, schedule.timezone, schedule.queue,
                            schedule.remote, schedule.priority, schedule.missed, schedule.overlap)
                      is distinct from (excluded.job, excluded.input, excluded.cron, excluded.timezone, excluded.queue,
                            excluded.remote, excluded.priority, excluded.missed, excluded.overlap)
                      then excluded.updated_at else schedule.updated_at end
returning name, job, input, cron, timezone, queue, remote, priority, missed, overlap, paused, next_at, last_at, created_at,
          updated_at;

-- name: find
-- One schedule.
select name, job, input, cron, timezone, queue, remote, priority, missed, overlap, paused, next_at, last_at, created_at,
       updated_at
from backstay.schedule where tenant_id = %(tenant_id)s::uuid and name = %(name)s::text;

-- name: page
-- A tenant's schedules by name, after a name.
select name, job, input, cron, timezone, queue, remote, priority, missed, overlap, paused, next_at, last_at, created_at,
       updated_at
from backstay.schedule
where tenant_id = %(tenant_id)s::uuid and (%(after)s::text is null or name > %(after)s::text)
order by name limit %(limit)s::bigint;

-- name: pause
-- Stops a schedule, or lets it go on from its next time after now.
update backstay.schedule
set paused = %(paused)s::boolean, next_at = %(next_at)s::timestamptz, updated_at = %(now)s::timestamptz
where tenant_id = %(tenant_id)s::uuid and name = %(name)s::text;

-- name: delete
-- Removes a schedule; what it has enqueued stays.
delete from backstay.schedule where tenant_id = %(tenant_id)s::uuid and name = %(name)s::text;

-- name: due
-- Schedules whose time has come, of all tenants, locked; those that another worker is firing are passed over.
select tenant_id, name, job, input, cron, timezone, queue, remote, priority, missed, overlap, next_at
from backstay.schedule
where next_at <= %(now)s::timestamptz and not paused
order by next_at limit %(limit)s::bigint
for update skip locked;

-- name: next_due
-- When the next schedule is due.
select min(next_at) as at from backstay.schedule where next_at is not null and not paused;

-- name: take_fire
-- Takes a time to fire for; no row when that has been done already.
insert into backstay.schedule_fire (tenant_id, schedule, at, fired_at)
values (%(tenant_id)s::uuid, %(schedule)s::text, %(at)s::timestamptz, %(now)s::timestamptz)
on conflict do nothing
returning at;

-- name: note_job
-- The job that a firing has enqueued.
update backstay.schedule_fire set job_id = %(job_id)s::uuid
where tenant_id = %(tenant_id)s::uuid and schedule = %(schedule)s::text and at = %(at)s::timestamptz;

-- name: advance
-- The schedule waits for its next time. `last_at`: the one it fired for, if it did.
update backstay.schedule
set next_at = %(next_at)s::timestamptz, last_at = coalesce(%(last_at)s::timestamptz, last_at)
where tenant_id = %(tenant_id)s::uuid and name = %(name)s::text;

-- name: fires
-- The firings of a schedule, newest first, before a time.
select at, job_id, fired_at from backstay.schedule_fire
where tenant_id = %(tenant_id)s::uuid and schedule = %(name)s::text
  and (%(before)s::timestamptz is null or at < %(before)s::timestamptz)
order by at desc limit %(limit)s::bigint;

-- name: prune
-- Firings that are no longer kept, a batch at a time.
delete from backstay.schedule_fire where (tenant_id, schedule, at) in (
    select tenant_id, schedule, at from backstay.schedule_fire
    where fired_at < %(before)s::timestamptz limit %(limit)s::bigint);
