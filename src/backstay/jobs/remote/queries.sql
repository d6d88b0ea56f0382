-- name: register_remote
-- A worker in another language: the lease is the same as that of our own, the jobs are those of one tenant.
insert into backstay.worker (id, name, queues, started_at, seen_at, expires_at, served_tenant, names, lease_seconds)
values (%(id)s::uuid, %(name)s::text, %(queues)s::text[], clock_timestamp(), clock_timestamp(),
        clock_timestamp() + %(lease)s::float8 * interval '1 second', %(tenant_id)s::uuid, %(names)s::text[],
        %(lease)s::float8);

-- name: lock_declared
-- The registrations of a tenant take turns, so that its names can be counted.
select pg_advisory_xact_lock(hashtextextended('backstay.remote_job ' || %(tenant_id)s::uuid, 0));

-- name: declare_remote
-- What a worker says of the jobs it can run; the last word stands.
insert into backstay.remote_job (tenant_id, name, queue, max_attempts, base_seconds, cap_seconds, max_rescues,
                                 timeout_seconds, updated_at)
select %(tenant_id)s::uuid, r.name, r.queue, r.max_attempts, r.base_seconds, r.cap_seconds, r.max_rescues,
       r.timeout_seconds, %(now)s::timestamptz
from jsonb_to_recordset(%(rows)s::jsonb) as r(name text, queue text, max_attempts integer, base_seconds float8,
                                              cap_seconds float8, max_rescues integer, timeout_seconds float8)
order by r.name
on conflict (tenant_id, name) do update set
    queue = excluded.queue, max_attempts = excluded.max_attempts, base_seconds = excluded.base_seconds,
    cap_seconds = excluded.cap_seconds, max_rescues = excluded.max_rescues,
    timeout_seconds = excluded.timeout_seconds, updated_at = excluded.updated_at;

-- name: count_declared
-- How many names a tenant's workers have registered.
select count(*) as names from backstay.remote_job where tenant_id = %(tenant_id)s::uuid;

-- name: declared
-- What a tenant's workers have said of these jobs.
select name, queue, max_attempts, base_seconds, cap_seconds, max_rescues, timeout_seconds from backstay.remote_job
where tenant_id = %(tenant_id)s::uuid and name = any(%(names)s::text[]);

-- name: remote_overdue
-- Remote jobs whose attempt takes longer than it may, of whatever tenant.
select j.fence, j.attempt, r.max_attempts, r.base_seconds, r.cap_seconds, r.timeout_seconds
from backstay.job j join backstay.remote_job r on r.tenant_id = j.tenant_id and r.name = j.name
where j.state = 'running' and j.remote and r.timeout_seconds is not null
  and j.started_at < %(now)s::timestamptz - r.timeout_seconds * interval '1 second'
limit %(limit)s::bigint
for update of j skip locked;

-- name: remote_workers
-- The tenant's remote workers whose lease runs, longest standing first.
select id, name, queues, names as jobs, lease_seconds, started_at, seen_at, expires_at from backstay.worker
where served_tenant = %(tenant_id)s::uuid and expires_at >= clock_timestamp()
order by started_at, id limit %(limit)s::bigint;

-- name: remote_beat
-- Renews a remote worker's lease; no row when it was declared dead or is another tenant's.
update backstay.worker
set seen_at = clock_timestamp(), expires_at = clock_timestamp() + lease_seconds * interval '1 second'
where id = %(worker)s::uuid and served_tenant = %(tenant_id)s::uuid
returning lease_seconds;

-- name: remote_claims
-- What a remote worker holds, to tell it what to stop and what it does not know of.
select id, fence, cancelling from backstay.job
where state = 'running' and worker_id = %(worker)s::uuid and tenant_id = %(tenant_id)s::uuid order by fence;

-- name: remote_leave
-- A remote worker that leaves; what it still holds is then rescued.
delete from backstay.worker where id = %(worker)s::uuid and served_tenant = %(tenant_id)s::uuid;

-- name: remote_claim
-- Claims for a remote worker: remote jobs of its tenant only, of the names and queues it registered. As in `turn`, it
-- gets nothing once its row is gone, from a paused queue, over a queue's limit, or while a job with the same key runs.
-- This commit waits for the disk, for the count that the fences are made of lies in the database.
with me as materialized (
    select id, queues, names, clock_timestamp() as at from backstay.worker
    where id = %(worker)s::uuid and served_tenant = %(tenant_id)s::uuid for key share
), ready as materialized (
    select j.id, j.queue, p.starts is not null as counted, row_number() over (order by j.priority desc, j.id) as position
    from me
    cross join unnest(me.queues) as q(name)
    left join backstay.queue p on p.name = q.name
    cross join lateral (
        select n.id, n.priority, q.name as queue
        from unnest(me.names) as w(name)
        cross join lateral (
            select c.id, c.priority
            from backstay.job c
            where c.tenant_id = %(tenant_id)s::uuid and c.queue = q.name and c.name = w.name
              and c.state = 'available' and c.remote
              and (c.unique_key is null or not exists (
                  select 1 from backstay.job r
                  where r.tenant_id = c.tenant_id and r.name = c.name and r.unique_key = c.unique_key
                    and r.state = 'running'))
            order by c.priority desc, c.id
            limit %(room)s::bigint
            for update skip locked
        ) n
        order by n.priority desc, n.id
        limit greatest(0, least(
            %(room)s::bigint,
            case when p.max_running is not null then p.max_running - (
                select count(*) from backstay.job r where r.queue = q.name and r.state = 'running') end,
            case when p.starts is not null then p.starts - (
                select coalesce(sum(s.jobs), 0) from backstay.job_start s
                where s.kind = 'queue' and s.name = q.name and s.at > me.at - p.seconds * interval '1 second') end,
            (select t.max_running - (
                select count(*) from backstay.job r
                where r.queue = q.name and r.tenant_id = %(tenant_id)s::uuid and r.state = 'running')
             from backstay.tenant_queue t
             where t.tenant_id = %(tenant_id)s::uuid and t.queue = q.name and t.max_running is not null)))
    ) j
    where p.paused is not true
    order by j.priority desc, j.id
    limit %(room)s::bigint
), counted as (
    update backstay.worker w set claims = w.claims + (select count(*) from ready)
    where w.id in (select id from me) and exists (select 1 from ready)
    returning (w.fence << 32) + w.claims - (select count(*) from ready) as before
), started as (
    insert into backstay.job_start (kind, name, at, jobs)
    select 'queue', r.queue, me.at, count(*) from me cross join ready r where r.counted group by r.queue, me.at
), claimed as (
    update backstay.job j
    set state = 'running', attempt = attempt + 1, worker_id = %(worker)s::uuid, started_at = %(now)s::timestamptz,
        fence = c.before + r.position, progress = null, progress_note = null
    from ready r cross join counted c
    where j.tenant_id = %(tenant_id)s::uuid and j.id = r.id and j.state = 'available'
    returning j.tenant_id, j.id, j.queue, j.name, j.priority, j.attempt, j.rescues, j.fence, j.run_at, j.unique_key,
              j.payload::text as payload
)
select (select count(*) from me) as alive, c.*
from (values (1)) as one(row) left join claimed c on true
order by c.priority desc, c.id;

-- name: remote_hold
-- Locks a job that is still this claim of this worker; no row when it is not. What follows stays on the indexes, as in
-- a transaction of our own loops.
select name, attempt, cancelling, set_config('enable_seqscan', 'off', true) as steered from backstay.job
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint
  and worker_id = %(worker)s::uuid and state = 'running'
for no key update;

-- name: remote_complete
-- Moves a completed job away, if it is still this claim of this worker. Returns its queue, and whether another may have
-- waited for its end.
with gone as (
    delete from backstay.job
    where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint
      and worker_id = %(worker)s::uuid and state = 'running'
    returning *
), done as (
    insert into backstay.job_done (tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at,
                                   started_at, finished_at, unique_key, payload, remote)
    select tenant_id, id, queue, name, 'completed', priority, attempt, rescues, run_at, created_at,
           started_at, %(now)s::timestamptz, unique_key, payload, remote
    from gone
)
select g.queue, g.unique_key is not null or exists (
    select 1 from backstay.queue q where q.name = g.queue and q.max_running is not null) or exists (
    select 1 from backstay.tenant_queue t
    where t.tenant_id = g.tenant_id and t.queue = g.queue and t.max_running is not null) as awaited
from gone g;

-- name: remote_input
-- The input of a job that this worker holds.
select coalesce(j.payload, b.body)::text as input
from backstay.job j left join backstay.blob b on b.tenant_id = j.tenant_id and b.id = j.id
where j.tenant_id = %(tenant_id)s::uuid and j.id = %(id)s::uuid and j.worker_id = %(worker)s::uuid
  and j.fence = %(fence)s::bigint and j.state = 'running';

-- name: remote_lock_limits
-- As lock_limits, for the queues of a remote worker that have a limit.
select q.name from backstay.queue q
where q.name in (
        select unnest(queues) from backstay.worker
        where id = %(worker)s::uuid and served_tenant = %(tenant_id)s::uuid)
  and (q.max_running is not null or q.starts is not null or exists (
        select 1 from backstay.tenant_queue t where t.queue = q.name and t.max_running is not null))
order by q.name for update of q;

-- name: remote_progress
-- The newest word of a job that this worker holds. Returns whether it is to be cancelled; no row when it lost the job.
update backstay.job set progress = %(fraction)s::real, progress_note = %(note)s::text
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint
  and worker_id = %(worker)s::uuid and state = 'running'
returning cancelling;
