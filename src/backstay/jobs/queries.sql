-- name: enqueue
-- Adds jobs. A waiting job with the same key stands instead: it is brought forward to the earlier time and the higher
-- priority, and its row stays locked until the caller commits, so that no worker can run it before the caller's
-- change is there to be read.
insert into backstay.job (tenant_id, id, queue, name, state, priority, run_at, created_at, unique_key, payload, remote,
                          limit_key)
select %(tenant_id)s::uuid, r.id, %(queue)s::text, %(name)s::text, %(state)s::text, %(priority)s::smallint,
       %(run_at)s::timestamptz, %(now)s::timestamptz, r.unique_key, r.payload, %(remote)s::boolean,
       case when not %(remote)s::boolean then coalesce(r.limit_key, '') end
from jsonb_to_recordset(%(rows)s::jsonb) as r(id uuid, unique_key text, payload jsonb, limit_key text)
order by r.unique_key, r.id
on conflict (tenant_id, name, unique_key)
    where unique_key is not null and state in ('scheduled', 'available', 'retryable')
do update set
    state = case when job.state = 'scheduled' then excluded.state else job.state end,
    run_at = case when job.state = 'scheduled' then least(job.run_at, excluded.run_at) else job.run_at end,
    priority = greatest(job.priority, excluded.priority)
returning id, unique_key;

-- name: add_blobs
-- Large payloads, under their job's id; not those of jobs in whose place another stands.
insert into backstay.blob (tenant_id, id, body, created_at)
select %(tenant_id)s::uuid, r.id, r.payload, %(now)s::timestamptz
from jsonb_to_recordset(%(rows)s::jsonb) as r(id uuid, payload jsonb)
where exists (select from backstay.job j where j.tenant_id = %(tenant_id)s::uuid and j.id = r.id);

-- name: turn
-- One round trip of a worker: moves what it has completed to job_done and claims what is ready, as many as it has room
-- for. It claims nothing when its own row is gone (it was declared dead), while a paused queue is skipped, and while a
-- job with the same key runs.
-- Tenants share: the scan hops from flow to flow (a tenant's jobs of one name and limit key), at most 64 in a queue,
-- gives each tenant's jobs a tag (what the tenant had before, and 1 / weight for each job in order of priority and id)
-- and takes the smallest tags. `begun` is where the last scan of a queue ended that saw 64; `behind` what it need not
-- read again.
-- The worker's row is locked against deletion, so a rescuer waits and then sees these claims. The commit does not wait
-- for the disk: a server that crashes may forget the last turns, and then those jobs run again.
-- The last row tells of the turn itself, in the column of the payload.
with recursive me as materialized (
    select id, clock_timestamp() as at, pg_stat_get_xact_tuples_returned('backstay.job_flow'::regclass) as read,
           set_config('synchronous_commit', 'off', true)
    from backstay.worker
    where id = %(worker)s::uuid for key share
), gone as (
    delete from backstay.job where state = 'running' and fence = any(%(fences)s::bigint[]) returning *
), done as (
    insert into backstay.job_done (tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at,
                                   started_at, finished_at, unique_key, payload, limit_key)
    select tenant_id, id, queue, name, 'completed', priority, attempt, rescues, run_at, created_at,
           started_at, %(now)s::timestamptz, unique_key, payload, limit_key
    from gone
), behind as materialized (
    select * from jsonb_to_recordset(%(behind)s::jsonb)
        as b(queue text, tenant_id uuid, name text, limit_key text, rank smallint, id uuid)
), begun as materialized (
    select * from jsonb_to_recordset(%(begun)s::jsonb) as b(queue text, tenant_id uuid, name text, limit_key text)
), had as materialized (
    select * from jsonb_to_recordset(%(had)s::jsonb) as h(queue text, tenant_id uuid, jobs float8)
), open_queue as materialized (
    select q.name, q.position from me
    cross join unnest(%(queues)s::text[]) with ordinality as q(name, position)
    left join backstay.queue p on p.name = q.name
    where p.paused is not true and %(room)s::bigint > 0
), hop as (
    select q.name as queue, q.position, 1 as leg, 0 as hops, coalesce(b.tenant_id, %(first)s::uuid) as tenant_id,
           coalesce(b.name, '') as name, coalesce(b.limit_key, '') as limit_key,
           %(last)s::uuid as end_tenant, '' as end_name, '' as end_key
    from open_queue q left join begun b on b.queue = q.name
    union all
    select q.name, q.position, 2, 0, %(first)s::uuid, '', '', b.tenant_id, b.name, b.limit_key
    from open_queue q join begun b on b.queue = q.name
    union all
    select h.queue, h.position, h.leg, h.hops + 1, n.tenant_id, n.name, n.limit_key, h.end_tenant, h.end_name, h.end_key
    from hop h
    left join lateral (
        select b.tenant_id, b.name, b.limit_key from behind b
        where b.queue = h.queue
          and (b.tenant_id, b.name, b.limit_key) > (h.tenant_id, h.name, h.limit_key)
          and (b.tenant_id, b.name, b.limit_key) < (h.end_tenant, h.end_name, h.end_key)
        order by b.tenant_id, b.name, b.limit_key limit 1) k on true
    cross join lateral (
        (select j.tenant_id, j.name, j.limit_key from backstay.job j
         where j.queue = h.queue and j.state = 'available' and j.limit_key is not null
           and (j.tenant_id, j.name, j.limit_key) > (h.tenant_id, h.name, h.limit_key)
           and (j.tenant_id, j.name, j.limit_key) < (
               coalesce(k.tenant_id, h.end_tenant), coalesce(k.name, h.end_name), coalesce(k.limit_key, h.end_key))
         order by j.queue, j.tenant_id, j.name, j.limit_key limit 1)
        union all
        select k.tenant_id, k.name, k.limit_key where k.tenant_id is not null
        limit 1) n
    where h.hops < 64
), seen as materialized (
    select h.*, row_number() over (partition by h.queue order by h.leg, h.hops) as seat from hop h where h.hops > 0
), bound as materialized (
    -- What the limits of queues and names leave. A window counts starts, on the database's clock.
    select b.kind, b.name, b.starts is not null as counted, least(b.running_left, b.starts - w.jobs) as room,
           case when w.jobs >= b.starts then w.first + b.seconds * interval '1 second' - me.at end as wait
    from me cross join lateral (
        select 'queue' as kind, q.name, q.starts, q.seconds,
               case when q.max_running is not null then q.max_running - (
                   select count(*) from backstay.job r where r.queue = q.name and r.state = 'running') end as running_left
        from backstay.queue q
        where q.name = any(%(queues)s::text[]) and (q.max_running is not null or q.starts is not null)
        union all
        select 'job', l.name, l.starts, l.seconds, null from backstay.job_limit l
        where l.name = any(%(names)s::text[]) and l.starts is not null
    ) b
    cross join lateral (
        select coalesce(sum(s.jobs), 0) as jobs, min(s.at) as first from backstay.job_start s
        where s.kind = b.kind and s.name = b.name and s.at > me.at - b.seconds * interval '1 second') w
), flow as materialized (
    select s.queue, s.position, s.tenant_id, s.name, s.limit_key, coalesce(k.rank, -32768) as rank,
           coalesce(k.id, %(first)s::uuid) as id, count(*) over () = 1 as alone,
           coalesce(t.weight, 1)::float8 as weight, coalesce(h.jobs, 0) as had,
           bq.room as queue_room, bn.room as name_room, t.room as tenant_room,
           greatest(0, least(%(room)s::bigint, bq.room, bn.room, t.room, case when l.key_running is not null then
               l.key_running - (
                   select count(*) from backstay.job r
                   where r.tenant_id = s.tenant_id and r.name = s.name and r.limit_key = s.limit_key
                     and r.state = 'running' and r.limit_key <> '') end)) as room,
           ceil(4 * %(room)s::bigint * coalesce(t.weight, 1) / sum(coalesce(t.weight, 1)) over ())::bigint as glance
    from seen s
    left join behind k on k.queue = s.queue and k.tenant_id = s.tenant_id and k.name = s.name
        and k.limit_key = s.limit_key
    left join had h on h.queue = s.queue and h.tenant_id = s.tenant_id
    left join bound bq on bq.kind = 'queue' and bq.name = s.queue
    left join bound bn on bn.kind = 'job' and bn.name = s.name
    left join backstay.job_limit l on l.name = s.name and l.key_running is not null and s.limit_key <> ''
    left join lateral (
        select t.weight, case when t.max_running is not null then t.max_running - (
            select count(*) from backstay.job r
            where r.queue = s.queue and r.tenant_id = s.tenant_id and r.state = 'running') end as room
        from backstay.tenant_queue t where t.tenant_id = s.tenant_id and t.queue = s.queue) t on true
    where s.seat <= 64 and s.name = any(%(names)s::text[])
), offer as materialized (
    select f.*, row_number() over (partition by f.queue, f.tenant_id order by c.rank, c.id) as turn
    from flow f cross join lateral (
        select - c.priority as rank, c.id from backstay.job c
        where c.queue = f.queue and c.tenant_id = f.tenant_id and c.name = f.name and c.limit_key = f.limit_key
          and c.state = 'available' and c.remote is not true
          and (- c.priority, c.id) > (f.rank, f.id)
          and (c.unique_key is null or not exists (
              select 1 from backstay.job r
              where r.tenant_id = c.tenant_id and r.name = c.name and r.unique_key = c.unique_key
                and r.state = 'running'))
        order by c.queue, c.tenant_id, c.name, c.limit_key, - c.priority, c.id
        limit least(f.room, f.glance)
    ) c
    where not f.alone
), share as materialized (
    select queue, position, tenant_id, name, limit_key, rank, id, room as jobs from flow where alone
    union all
    select queue, position, tenant_id, name, limit_key, rank, id, count(*) as jobs
    from (
        select *, row_number() over (order by position, had + (turn - 1) / weight, tenant_id) as place
        from (
            select o.*, row_number() over (partition by queue order by had + (turn - 1) / weight, tenant_id) as of_queue,
                   row_number() over (partition by name order by position, had + (turn - 1) / weight) as of_name
            from offer o where turn <= coalesce(tenant_room, turn)
        ) o
        where of_queue <= coalesce(queue_room, of_queue) and of_name <= coalesce(name_room, of_name)
    ) o
    where place <= %(room)s::bigint
    group by queue, position, tenant_id, name, limit_key, rank, id
), ready as materialized (
    select j.place, s.queue, s.name from share s cross join lateral (
        select c.ctid as place from backstay.job c
        where c.queue = s.queue and c.tenant_id = s.tenant_id and c.name = s.name and c.limit_key = s.limit_key
          and c.state = 'available' and c.remote is not true
          and (- c.priority, c.id) > (s.rank, s.id)
          and (c.unique_key is null or not exists (
              select 1 from backstay.job r
              where r.tenant_id = c.tenant_id and r.name = c.name and r.unique_key = c.unique_key
                and r.state = 'running'))
        order by c.queue, c.tenant_id, c.name, c.limit_key, - c.priority, c.id
        limit s.jobs
        for update skip locked
    ) j
), counted as (
    insert into backstay.job_start (kind, name, at, jobs)
    select b.kind, b.name, me.at, count(*)
    from me cross join ready r join bound b on b.counted and b.name = case b.kind when 'queue' then r.queue else r.name end
    group by b.kind, b.name, me.at
), claimed as (
    update backstay.job j
    set state = 'running', attempt = attempt + 1, worker_id = %(worker)s::uuid, started_at = %(now)s::timestamptz,
        fence = %(first_fence)s::bigint + r.position, progress = null, progress_note = null
    from unnest(array(select place from ready)) with ordinality as r(place, position)
    where j.ctid = r.place and j.state = 'available'
    returning j.tenant_id, j.id, j.queue, j.name, j.priority, j.attempt, j.rescues, j.fence, j.run_at, j.unique_key,
              j.payload::text as payload, j.limit_key
)
(select * from claimed order by priority desc, id)
union all
select null, null, null, null, null, null, null, null, null, null, jsonb_build_object(
    'finished', (select count(*) from gone),
    'alive', (select count(*) from me),
    'read', pg_stat_get_xact_tuples_returned('backstay.job_flow'::regclass) - (select read from me),
    'flows', (select count(*) from flow),
    'weights', (select jsonb_agg(distinct jsonb_build_array(queue, tenant_id, weight)) from flow where not alone),
    'ended', (select jsonb_agg(jsonb_build_array(queue, tenant_id, name, limit_key)) from seen where seat = 64),
    'full', (select jsonb_agg(jsonb_build_array(kind, name)) from bound where room <= 0),
    'wait', (select extract(epoch from min(wait)) from bound))::text, null;

-- name: lock_limits
-- Claims under a limit take turns, so that two workers cannot both see the last free place. Queues before names, each in
-- order: two claims never wait for each other.
select (select count(*) from (
            select q.name from backstay.queue q where q.name = any(%(queues)s::text[]) order by q.name for update) q)
     + (select count(*) from (
            select l.name from backstay.job_limit l where l.name = any(%(names)s::text[]) order by l.name for update) l);

-- name: limited
-- Whether anything limits the claims from these queues and of these names.
select exists (
    select 1 from backstay.queue where name = any(%(queues)s::text[]) and (max_running is not null or starts is not null)
) or exists (
    select 1 from backstay.tenant_queue where queue = any(%(queues)s::text[]) and max_running is not null
) or exists (
    select 1 from backstay.job_limit where name = any(%(names)s::text[])
) as limited;

-- name: blob
-- One large payload.
select body::text as body from backstay.blob where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid;

-- name: settle
-- Outcomes other than completed: back to waiting, or finished. A job whose key already waits again in a newer one is
-- finished instead of waiting: the newer one does the work. Its worker has survived it, so the count of those that did
-- not begins again. Returns what was still the worker's own.
with verdict as materialized (
    select * from jsonb_to_recordset(%(verdicts)s::jsonb)
        as v(fence bigint, state text, run_at timestamptz, counted boolean, error text)
), held as materialized (
    select j.tenant_id, j.id, v.run_at, v.counted, v.state,
        case when v.state in ('cancelled', 'discarded') then v.error
             when s.id is not null then 'a newer job with this key took its place'
             else coalesce(v.error, j.error) end as error,
        case when v.state in ('cancelled', 'discarded') then v.state
             when j.cancelling or s.id is not null then 'cancelled' end as final
    from backstay.job j
    join verdict v on v.fence = j.fence
    left join backstay.job s on s.tenant_id = j.tenant_id and s.name = j.name and s.unique_key = j.unique_key
        and s.unique_key is not null and s.state in ('scheduled', 'available', 'retryable')
    where j.state = 'running'
    for update of j
), gone as (
    delete from backstay.job j using held h
    where j.tenant_id = h.tenant_id and j.id = h.id and h.final is not null
    returning j.*, h.final, h.error as why
), done as (
    insert into backstay.job_done (tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at,
                                   started_at, finished_at, unique_key, payload, error, remote, limit_key)
    select tenant_id, id, queue, name, final, priority, attempt, rescues, run_at, created_at,
           started_at, %(now)s::timestamptz, unique_key, payload, why, remote, limit_key
    from gone
), back as (
    update backstay.job j
    set state = h.state, run_at = h.run_at, error = h.error, worker_id = null,
        attempt = j.attempt - case when h.counted then 0 else 1 end, rescues = 0
    from held h
    where j.tenant_id = h.tenant_id and j.id = h.id and h.final is null
    returning j.fence
)
select fence from gone union all select fence from back;

-- name: promote
-- Makes due jobs available. Returns their queues.
with due as materialized (
    select ctid as place from backstay.job
    where state in ('scheduled', 'retryable') and run_at <= %(now)s::timestamptz
    order by run_at limit %(limit)s::bigint
    for update skip locked
)
update backstay.job set state = 'available'
where ctid = any(array(select place from due)) and state in ('scheduled', 'retryable')
returning queue;

-- name: next_due
-- When the next waiting job is due.
select min(run_at) as at from backstay.job where state in ('scheduled', 'retryable');

-- name: add_worker
-- Leases run on the database's clock: machines' clocks differ, and a fast one must not declare others dead.
insert into backstay.worker (id, name, queues, started_at, seen_at, expires_at)
values (%(id)s::uuid, %(name)s::text, %(queues)s::text[], clock_timestamp(), clock_timestamp(),
        clock_timestamp() + %(lease)s::float8 * interval '1 second')
returning fence;

-- name: beat
-- Renews the lease; no row when the worker was declared dead.
update backstay.worker
set seen_at = clock_timestamp(), expires_at = clock_timestamp() + %(lease)s::float8 * interval '1 second'
where id = %(id)s::uuid;

-- name: claims
-- What a worker holds from a fence on, to find what it shall stop, and claims whose answer was lost with a connection.
-- The last row tells how many entries of the index were read.
with before as materialized (
    select pg_stat_get_xact_tuples_returned('backstay.job_running'::regclass) as read
), mine as materialized (
    select fence, cancelling from backstay.job
    where (select read from before) is not null
      and state = 'running' and worker_id = %(worker)s::uuid and fence >= %(since)s::bigint
)
select fence, cancelling from mine
union all
select pg_stat_get_xact_tuples_returned('backstay.job_running'::regclass) - (select read from before), null;

-- name: remove_worker
-- A worker that leaves; what it still holds is then rescued at once.
delete from backstay.worker where id = %(id)s::uuid;

-- name: bury_workers
-- Workers whose lease is over.
delete from backstay.worker where id in (
    select id from backstay.worker where expires_at < clock_timestamp() for update skip locked)
returning id, name, extract(epoch from clock_timestamp() - seen_at)::float8 as silent;

-- name: rescue
-- Running jobs whose worker is gone wait again; the attempt does not count. As in settle, a newer one with the same
-- key takes over. A job that was to be cancelled is. One that was under the hands of 20 lost workers in a row waits a
-- while first, longer each time: it may be what kills them, or the machine has too much to do. The names are for metrics:
-- those that tenants made up are not told.
with orphan as materialized (
    select j.tenant_id, j.id,
        case when j.cancelling or s.id is not null then 'cancelled' end as final,
        case when s.id is not null then 'a newer job with this key took its place'
             when j.cancelling then 'cancelled on request' end as why
    from backstay.job j
    left join backstay.job s on s.tenant_id = j.tenant_id and s.name = j.name and s.unique_key = j.unique_key
        and s.unique_key is not null and s.state in ('scheduled', 'available', 'retryable')
    where j.state = 'running' and not exists (select 1 from backstay.worker w where w.id = j.worker_id)
    for update of j skip locked
), gone as (
    delete from backstay.job j using orphan o
    where j.tenant_id = o.tenant_id and j.id = o.id and o.final is not null
    returning j.*, o.final, o.why
), done as (
    insert into backstay.job_done (tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at,
                                   started_at, finished_at, unique_key, payload, error, remote, limit_key)
    select tenant_id, id, queue, name, final, priority, attempt, rescues, run_at, created_at,
           started_at, %(now)s::timestamptz, unique_key, payload, why, remote, limit_key
    from gone
), back as (
    update backstay.job j
    set worker_id = null, attempt = j.attempt - 1, rescues = j.rescues + 1,
        state = case when j.rescues < 20 then 'available' else 'retryable' end,
        run_at = case when j.rescues < 20 then j.run_at
                      else %(now)s::timestamptz + least(60, power(2, least(j.rescues, 30) - 20)) * interval '1 second' end,
        error = case when j.rescues < 20 then j.error
                     else (j.rescues + 1) || ' workers in a row were lost while they ran it; it is tried again' end
    from orphan o
    where j.tenant_id = o.tenant_id and j.id = o.id and o.final is null
    returning j.queue, j.name, j.remote
)
select queue, case when remote then 'remote' else name end as name
from (select queue, name, remote from back union all select queue, name, remote from gone) as rescued;

-- name: hold
-- Locks a job that is still this claim's; no row when it is not. Should this process freeze before it commits, the
-- server ends the transaction after a while, and the lock with it.
select set_config('idle_in_transaction_session_timeout', %(milliseconds)s::integer::text, true) as held
from backstay.job
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint and state = 'running'
for no key update;

-- name: find
-- One job, waiting, running or finished, with its input.
select j.tenant_id, j.id, j.queue, j.name, j.state, j.priority, j.attempt, j.rescues, j.run_at, j.created_at,
       j.started_at, j.finished_at, j.unique_key, j.error, j.progress, j.progress_note,
       coalesce(j.payload, b.body) as input
from (
    select tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at, started_at,
           null::timestamptz as finished_at, unique_key, error, payload, progress, progress_note
    from backstay.job where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid
    union all
    select tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at, started_at,
           finished_at, unique_key, error, payload, null::real, null::text
    from backstay.job_done where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid
) j
left join backstay.blob b on b.tenant_id = j.tenant_id and b.id = j.id
limit 1;

-- name: page
-- Jobs of a tenant, newest first, after a key, filtered.
(
    select tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at, started_at,
           null::timestamptz as finished_at, unique_key, error, progress, progress_note
    from backstay.job
    where tenant_id = %(tenant_id)s::uuid and id < %(after)s::uuid
      and (%(state)s::text is null or state = %(state)s::text)
      and (%(queue)s::text is null or queue = %(queue)s::text)
      and (%(name)s::text is null or name = %(name)s::text)
    order by id desc limit %(limit)s::bigint
) union all (
    select tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at, started_at,
           finished_at, unique_key, error, null::real, null::text
    from backstay.job_done
    where tenant_id = %(tenant_id)s::uuid and id < %(after)s::uuid
      and (%(state)s::text is null or state = %(state)s::text)
      and (%(queue)s::text is null or queue = %(queue)s::text)
      and (%(name)s::text is null or name = %(name)s::text)
    order by id desc limit %(limit)s::bigint
) order by id desc limit %(limit)s::bigint;

-- name: revive
-- A finished job (not a completed one) waits again under its old id, with a fresh count of attempts. The store turns a
-- conflict on its key into an error.
with gone as (
    delete from backstay.job_done
    where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and state in ('cancelled', 'discarded')
    returning *
)
insert into backstay.job (tenant_id, id, queue, name, state, priority, run_at, created_at, unique_key, payload, error,
                          remote, limit_key)
select tenant_id, id, queue, name, 'available', priority, %(now)s::timestamptz, created_at, unique_key, payload, error,
       remote, limit_key
from gone
returning queue;

-- name: hasten
-- A waiting job runs now.
update backstay.job set state = 'available', run_at = %(now)s::timestamptz
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and state in ('scheduled', 'retryable')
returning queue;

-- name: cancel_waiting
-- Finishes a waiting job as cancelled.
with gone as (
    delete from backstay.job
    where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid
      and state in ('scheduled', 'available', 'retryable')
    returning *
)
insert into backstay.job_done (tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at,
                               started_at, finished_at, unique_key, payload, error, remote, limit_key)
select tenant_id, id, queue, name, 'cancelled', priority, attempt, rescues, run_at, created_at,
       started_at, %(now)s::timestamptz, unique_key, payload, 'cancelled on request', remote, limit_key
from gone;

-- name: ask_to_cancel
-- Tells the worker of a running job to stop it.
update backstay.job set cancelling = true
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and state = 'running';

-- name: queues
-- A tenant's jobs by queue and state.
select j.queue, j.state, count(*) as jobs, min(j.run_at) as oldest, coalesce(bool_or(q.paused), false) as paused
from backstay.job j left join backstay.queue q on q.name = j.queue
where j.tenant_id = %(tenant_id)s::uuid
group by j.queue, j.state order by j.queue, j.state;

-- name: depths
-- Hot jobs of all tenants by queue and state, for the gauge.
select queue, state, count(*) as jobs from backstay.job group by queue, state;

-- name: waiting
-- Whether these queues have anything that is running, ready or due.
select exists (
    select 1 from backstay.job
    where queue = any(%(queues)s::text[]) and not remote
      and (state in ('available', 'running') or run_at <= %(now)s::timestamptz)) as waiting;

-- name: keep_partitions
-- Makes the days ahead, drops the days past. Returns how many changed.
select backstay.keep_job_partitions(%(today)s::date, %(ahead)s::integer, %(keep_from)s::date);

-- name: prune_blobs
-- Large payloads whose job is no longer kept, a batch at a time.
delete from backstay.blob where (tenant_id, id) in (
    select b.tenant_id, b.id from backstay.blob b
    where b.created_at < %(before)s::timestamptz
      and not exists (select 1 from backstay.job j where j.tenant_id = b.tenant_id and j.id = b.id)
      and not exists (select 1 from backstay.job_done d where d.tenant_id = b.tenant_id and d.id = b.id)
    limit %(limit)s::bigint);

-- name: ready_queues
-- Queues that have something ready, by hopping through the index from one to the next.
with recursive hop as (
    (select queue from backstay.job where state = 'available' and limit_key is not null
     order by queue, tenant_id, name, limit_key limit 1)
    union all
    select (select j.queue from backstay.job j
            where j.state = 'available' and j.limit_key is not null and j.queue > hop.queue
            order by j.queue, j.tenant_id, j.name, j.limit_key limit 1)
    from hop where hop.queue is not null
)
select queue from hop where queue is not null;

-- name: report_progress
-- The newest words of running jobs, of whatever tenant. A locked row is left: waiting for one would make those behind
-- it wait as well. Returns the fences written.
with mine as materialized (
    select j.tenant_id, j.id, r.fraction, r.note
    from jsonb_to_recordset(%(rows)s::jsonb) as r(fence bigint, fraction real, note text)
    join backstay.job j on j.fence = r.fence
    where j.state = 'running'
    for no key update of j skip locked
)
update backstay.job j set progress = m.fraction, progress_note = m.note
from mine m where j.tenant_id = m.tenant_id and j.id = m.id
returning j.fence;
