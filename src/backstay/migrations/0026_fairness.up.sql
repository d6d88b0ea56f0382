-- phase: expand
-- Fairness between tenants, and limits that are exact over all workers.

-- What a handler's limit for each key made of the input; empty without such a limit, null for remote jobs.
alter table backstay.job add column limit_key text default '';
alter table backstay.job_done add column limit_key text default '';
update backstay.job set limit_key = null where remote;

-- Claims hop from flow to flow: the jobs of one tenant, name and limit key. What waits for a limit lies in the way of its
-- own flow only. `job_ready` stays: the claims of releases before this one need it. The conditions of the two are of
-- different columns, so that the planner cannot take one for the other, whatever its statistics say.
create index job_flow on backstay.job (queue, tenant_id, name, limit_key, (- priority), id)
    where state = 'available' and limit_key is not null;
create index job_running_limit on backstay.job (tenant_id, name, limit_key) where state = 'running' and limit_key <> '';

-- A queue starts at most `starts` jobs in any `seconds`.
alter table backstay.queue add column starts integer check (starts > 0);
alter table backstay.queue add column seconds float8 check (seconds > 0);

-- What a tenant gets of a queue: only those that someone has changed have a row.
create table backstay.tenant_queue (
    tenant_id   uuid    not null,
    queue       text    not null,
    weight      real    not null default 1 check (weight > 0),
    max_running integer check (max_running >= 0),
    primary key (tenant_id, queue)
);
select backstay.fence('tenant_queue');
revoke insert, update, delete on backstay.tenant_queue from backstay_app;

-- Limits of a job's name, as its handlers were registered.
create table backstay.job_limit (
    name        text    primary key,
    starts      integer check (starts > 0),
    seconds     float8  check (seconds > 0),
    key_running integer check (key_running > 0)
);
grant select, insert, update, delete on backstay.job_limit to backstay_system;

-- What was started under a limit of starts, a row for each claim: the sum over the last `seconds` is exact.
create table backstay.job_start (
    kind text        not null check (kind in ('queue', 'job')),
    name text        not null,
    at   timestamptz not null,
    jobs integer     not null
);
create index job_start_at on backstay.job_start (kind, name, at) include (jobs);
grant select, insert, update, delete on backstay.job_start to backstay_system;
