-- phase: expand
-- Jobs: hot rows, finished rows by day, large payloads, workers, queues.

-- Every registration of a worker takes the next number. Its claims are numbered from there (number × 2^32 and up), so
-- that no two claims ever have the same fence. A write for a job names its fence: what a worker writes that lost the
-- job matches nothing. The claims themselves take no sequence, because they commit asynchronously and a crash of the
-- server could then hand out a number twice.
create sequence backstay.worker_fence maxvalue 2147483647;
grant usage on sequence backstay.worker_fence to backstay_system;

-- Hot rows only: what is finished moves to job_done.
create table backstay.job (
    tenant_id  uuid        not null,
    id         uuid        not null,
    queue      text        not null,
    name       text        not null,
    state      text        not null check (state in ('scheduled', 'available', 'running', 'retryable')),
    priority   smallint    not null,
    attempt    integer     not null default 0,
    rescues    integer     not null default 0,
    run_at     timestamptz not null,
    created_at timestamptz not null,
    started_at timestamptz,
    unique_key text,
    worker_id  uuid,
    fence      bigint,
    cancelling boolean     not null default false,
    payload    jsonb,      -- null: it was large and lies in backstay.blob under the same id
    error      text,
    primary key (tenant_id, id)
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.5,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000
);
create index job_ready on backstay.job (queue, priority desc, id) where state = 'available';
create index job_due on backstay.job (run_at) where state in ('scheduled', 'retryable');
create unique index job_running on backstay.job (fence) where state = 'running';
-- At most one job with a key waits. A running one does not count: it may have read what a newer enqueue has changed.
create unique index job_waiting_key on backstay.job (tenant_id, name, unique_key)
    where unique_key is not null and state in ('scheduled', 'available', 'retryable');
create index job_running_key on backstay.job (tenant_id, name, unique_key)
    where unique_key is not null and state = 'running';
select backstay.fence('job');

-- Finished rows. A day is dropped as a whole; the default partition is a safety net.
create table backstay.job_done (
    tenant_id   uuid        not null,
    id          uuid        not null,
    queue       text        not null,
    name        text        not null,
    state       text        not null check (state in ('completed', 'cancelled', 'discarded')),
    priority    smallint    not null,
    attempt     integer     not null,
    rescues     integer     not null,
    run_at      timestamptz not null,
    created_at  timestamptz not null,
    started_at  timestamptz,
    finished_at timestamptz not null,
    unique_key  text,
    payload     jsonb,
    error       text,
    primary key (tenant_id, id, finished_at)
) partition by range (finished_at);
create table backstay.job_done_default partition of backstay.job_done default;
select backstay.fence('job_done');
select backstay.fence('job_done_default');

-- Payloads over 64 kB, so that hot rows stay small. The id is the job's.
create table backstay.blob (
    tenant_id  uuid        not null,
    id         uuid        not null,
    body       jsonb       not null,
    created_at timestamptz not null,
    primary key (tenant_id, id)
);
create index blob_age on backstay.blob (created_at);
select backstay.fence('blob');

-- One row a worker process, renewed by its heartbeat. A worker that comes back gets a new id.
create table backstay.worker (
    id         uuid        primary key,
    fence      bigint      not null default nextval('backstay.worker_fence'),
    name       text        not null,
    queues     text[]      not null,
    started_at timestamptz not null,
    seen_at    timestamptz not null,
    expires_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
grant select, insert, update, delete on backstay.worker to backstay_system;

-- Only queues that someone has changed have a row.
create table backstay.queue (
    name        text    primary key,
    paused      boolean not null default false,
    max_running integer check (max_running >= 0)
);
grant select, insert, update, delete on backstay.queue to backstay_system;
grant select on backstay.queue to backstay_app;

-- Makes the partitions of `days_ahead` days from `today` on and drops those that end before `keep_from`. Runs as the
-- owner, because no other role may create or drop tables. Rows that the safety net caught move to their day.
create function backstay.keep_job_partitions(today date, days_ahead integer, keep_from date)
returns integer language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    day date;
    part text;
    changed integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('backstay.job_done', 0));
    for day in select d::date from generate_series(today, today + days_ahead, interval '1 day') d loop
        part := 'job_done_' || to_char(day, 'YYYYMMDD');
        continue when to_regclass('backstay.' || part) is not null;
        execute format('create table backstay.%I (like backstay.job_done including all)', part);
        -- FORCE hides the rows from the owner too; the exclusive lock keeps everyone else out meanwhile.
        alter table backstay.job_done_default no force row level security;
        execute format(
            'with caught as (delete from backstay.job_done_default where finished_at >= %L and finished_at < %L '
            'returning *) insert into backstay.%I select * from caught',
            day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC', part);
        alter table backstay.job_done_default force row level security;
        execute format(
            'alter table backstay.job_done attach partition backstay.%I for values from (%L) to (%L)',
            part, day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
        perform backstay.fence(part);
        changed := changed + 1;
    end loop;
    for part in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'backstay.job_done'::regclass
          and c.relname ~ '^job_done_\d{8}$' and to_date(right(c.relname, 8), 'YYYYMMDD') < keep_from
    loop
        execute format('drop table backstay.%I', part);
        changed := changed + 1;
    end loop;
    return changed;
end
$$;
revoke execute on function backstay.keep_job_partitions(date, integer, date) from public;
grant execute on function backstay.keep_job_partitions(date, integer, date) to backstay_system;
select backstay.keep_job_partitions(current_date, 3, current_date);
