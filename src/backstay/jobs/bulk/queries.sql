-- name: revive_many
-- As revive, for a batch of finished jobs after an id. One whose key waits already in another job stays as it is. What
-- another transaction has locked is left to it.
with picked as materialized (
    select tenant_id, id, finished_at, queue, name, priority, created_at, unique_key, payload, error, remote, limit_key
    from backstay.job_done
    where tenant_id = %(tenant_id)s::uuid and id > %(after)s::uuid and state = any(%(states)s::text[])
      and (%(name)s::text is null or name = %(name)s::text)
      and (%(queue)s::text is null or queue = %(queue)s::text)
      and (%(error)s::text is null or position(lower(%(error)s::text) in lower(error)) > 0)
      and (%(since)s::timestamptz is null or finished_at >= %(since)s::timestamptz)
      and (%(until)s::timestamptz is null or finished_at < %(until)s::timestamptz)
    order by id limit %(limit)s::bigint
    for update skip locked
), added as (
    insert into backstay.job (tenant_id, id, queue, name, state, priority, run_at, created_at, unique_key, payload,
                              error, remote, limit_key)
    select tenant_id, id, queue, name, 'available', priority, %(now)s::timestamptz, created_at, unique_key, payload,
           error, remote, limit_key
    from picked order by id
    on conflict do nothing
    returning id, queue
), gone as (
    delete from backstay.job_done d using picked p, added a
    where d.tenant_id = p.tenant_id and d.id = p.id and d.finished_at = p.finished_at and a.id = p.id
)
select (select count(*) from picked) as seen, (select count(*) from added) as changed,
       (select id from picked order by id desc limit 1) as last,
       coalesce((select array_agg(distinct queue) from added), '{}') as queues;

-- name: hasten_many
-- As hasten, for a batch of jobs after an id that failed and wait to be repeated.
with picked as materialized (
    select id, queue from backstay.job
    where tenant_id = %(tenant_id)s::uuid and id > %(after)s::uuid and state = 'retryable'
      and (%(name)s::text is null or name = %(name)s::text)
      and (%(queue)s::text is null or queue = %(queue)s::text)
      and (%(error)s::text is null or position(lower(%(error)s::text) in lower(error)) > 0)
      and (%(since)s::timestamptz is null or created_at >= %(since)s::timestamptz)
      and (%(until)s::timestamptz is null or created_at < %(until)s::timestamptz)
    order by id limit %(limit)s::bigint
    for update skip locked
), hastened as (
    update backstay.job j set state = 'available', run_at = %(now)s::timestamptz
    from picked p where j.tenant_id = %(tenant_id)s::uuid and j.id = p.id
    returning j.id, j.queue
)
select (select count(*) from picked) as seen, (select count(*) from hastened) as changed,
       (select id from picked order by id desc limit 1) as last,
       coalesce((select array_agg(distinct queue) from hastened), '{}') as queues;

-- name: cancel_many
-- As cancel_waiting, for a batch of waiting jobs after an id.
with picked as materialized (
    select id from backstay.job
    where tenant_id = %(tenant_id)s::uuid and id > %(after)s::uuid and state = any(%(states)s::text[])
      and state <> 'running'
      and (%(name)s::text is null or name = %(name)s::text)
      and (%(queue)s::text is null or queue = %(queue)s::text)
      and (%(error)s::text is null or position(lower(%(error)s::text) in lower(error)) > 0)
      and (%(since)s::timestamptz is null or created_at >= %(since)s::timestamptz)
      and (%(until)s::timestamptz is null or created_at < %(until)s::timestamptz)
    order by id limit %(limit)s::bigint
    for update skip locked
), gone as (
    delete from backstay.job j using picked p where j.tenant_id = %(tenant_id)s::uuid and j.id = p.id
    returning j.*
), done as (
    insert into backstay.job_done (tenant_id, id, queue, name, state, priority, attempt, rescues, run_at, created_at,
                                   started_at, finished_at, unique_key, payload, error, remote, limit_key)
    select tenant_id, id, queue, name, 'cancelled', priority, attempt, rescues, run_at, created_at,
           started_at, %(now)s::timestamptz, unique_key, payload, 'cancelled on request', remote, limit_key
    from gone
)
select (select count(*) from picked) as seen, (select count(*) from gone) as changed,
       (select id from picked order by id desc limit 1) as last,
       coalesce((select array_agg(distinct queue) from gone), '{}') as queues;

-- name: ask_many
-- As ask_to_cancel, for a batch of running jobs after an id that were not asked yet.
with picked as materialized (
    select id from backstay.job
    where tenant_id = %(tenant_id)s::uuid and id > %(after)s::uuid and state = 'running' and not cancelling
      and (%(name)s::text is null or name = %(name)s::text)
      and (%(queue)s::text is null or queue = %(queue)s::text)
      and (%(error)s::text is null or position(lower(%(error)s::text) in lower(error)) > 0)
      and (%(since)s::timestamptz is null or created_at >= %(since)s::timestamptz)
      and (%(until)s::timestamptz is null or created_at < %(until)s::timestamptz)
    order by id limit %(limit)s::bigint
    for update skip locked
), asked as (
    update backstay.job j set cancelling = true
    from picked p where j.tenant_id = %(tenant_id)s::uuid and j.id = p.id
    returning j.id, j.queue
)
select (select count(*) from picked) as seen, (select count(*) from asked) as changed,
       (select id from picked order by id desc limit 1) as last,
       coalesce((select array_agg(distinct queue) from asked), '{}') as queues;
