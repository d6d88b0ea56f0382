-- phase: expand
-- Workflows: runs and their steps.

create table backstay.run (
    tenant_id   uuid        not null,
    id          uuid        not null,
    workflow    text        not null,
    version     text        not null,
    key         text,
    state       text        not null check (
        state in ('pending', 'running', 'completed', 'failed', 'cancelled', 'nondeterministic')),
    principal   jsonb       not null,   -- who started it: the run acts as them
    input       jsonb       not null,
    output      jsonb,
    error       text,
    fence       bigint      not null default 0, -- the claim that may write; a worker with another number may not
    attempt     integer     not null default 0,
    created_at  timestamptz not null,
    started_at  timestamptz,
    finished_at timestamptz,
    primary key (tenant_id, id)
) with (fillfactor = 80);
create unique index run_key on backstay.run (tenant_id, workflow, key) where key is not null;
create index run_unfinished on backstay.run (tenant_id, id) where state in ('pending', 'running');
select backstay.fence('run');

create table backstay.step (
    tenant_id   uuid        not null,
    run_id      uuid        not null,
    seq         integer     not null,
    kind        text        not null check (kind in ('step', 'transaction', 'value')),
    name        text        not null,
    args_hash   bytea       not null,
    state       text        not null check (state in ('started', 'completed', 'failed')),
    output      jsonb,
    error       text,
    attempt     integer     not null,   -- how often it was begun: each may have reached the outside
    failures    integer     not null default 0,
    fence       bigint      not null,
    started_at  timestamptz not null,
    finished_at timestamptz,
    primary key (tenant_id, run_id, seq),
    foreign key (tenant_id, run_id) references backstay.run (tenant_id, id) on delete cascade
) with (fillfactor = 80);
select backstay.fence('step');
