-- phase: expand
-- Workers in other languages, and the progress of running jobs.

-- A job for remote workers. Ours never claim it, and theirs never claim ours, whatever names they register.
alter table backstay.job add column remote boolean not null default false;
alter table backstay.job_done add column remote boolean not null default false;

-- What the running attempt told of itself; a new attempt begins without.
alter table backstay.job add column progress real;
alter table backstay.job add column progress_note text;

-- Remote jobs that nobody works on must not lie in the way of our own workers' claims.
drop index backstay.job_ready;
create index job_ready on backstay.job (queue, priority desc, id) where state = 'available' and not remote;
-- A remote worker claims by tenant and name: neither another tenant's jobs nor those of other names are read.
create index job_remote_ready on backstay.job (tenant_id, queue, name, priority desc, id)
    where state = 'available' and remote;

-- Remote workers have the same row and lease as ours. `served_tenant`: the only tenant whose jobs it may have; null for
-- our own, which serve all. `claims` counts what a remote one was given: its fences are made of it, because several
-- API processes may answer one worker.
alter table backstay.worker add column served_tenant uuid;
alter table backstay.worker add column names text[];
alter table backstay.worker add column lease_seconds float8;
alter table backstay.worker add column claims bigint not null default 0;

-- The jobs that a tenant's remote workers have registered: what may be enqueued, where to, and how it is retried.
create table backstay.remote_job (
    tenant_id    uuid        not null,
    name         text        not null,
    queue        text        not null,
    max_attempts integer     not null,
    base_seconds float8      not null,
    cap_seconds  float8      not null,
    max_rescues  integer     not null,
    updated_at   timestamptz not null,
    primary key (tenant_id, name)
);
select backstay.fence('remote_job');
