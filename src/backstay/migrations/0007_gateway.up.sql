-- phase: expand
-- Model calls, the budgets that bound them, and what they cost.

-- Gateway processes by their heartbeat: the holds of a silent one are released. Of no tenant.
create table backstay.gateway_process (
    id         uuid primary key,
    started_at timestamptz not null,
    seen_at    timestamptz not null
);
create index gateway_process_seen on backstay.gateway_process (seen_at);
grant select, insert, update, delete on backstay.gateway_process to backstay_system;

-- `amount` USD for a subject in each window. The subject of a tenant's budget is the empty text.
create table backstay.budget (
    tenant_id  uuid not null,
    id         uuid not null,
    scope      text not null check (scope in ('tenant', 'key', 'user', 'feature', 'model')),
    subject    text not null check ((scope = 'tenant') = (subject = '')),
    amount     numeric not null check (amount >= 0),
    period     text not null check (period in ('minute', 'hour', 'day', 'month', 'total')),
    hard       boolean not null,
    created_at timestamptz not null,
    primary key (tenant_id, id),
    unique (tenant_id, scope, subject, period)
);
select backstay.fence('budget');

-- What is spent and held in one window: every admission and settlement in the budget's scope updates its row, so it
-- leaves room on its page for new versions. `held` is the sum of the holds that point here.
create table backstay.budget_window (
    tenant_id uuid not null,
    budget_id uuid not null,
    starts_at timestamptz not null,
    spent     numeric not null default 0,
    held      numeric not null default 0 check (held >= 0),
    primary key (tenant_id, budget_id, starts_at),
    foreign key (tenant_id, budget_id) references backstay.budget (tenant_id, id) on delete cascade
) with (fillfactor = 50);
select backstay.fence('budget_window');

-- One row a model call, written with its audit entry before the provider is asked.
create table backstay.call (
    tenant_id     uuid not null,
    id            uuid not null,
    process_id    uuid not null,
    principal_id  uuid not null,
    key_id        uuid,
    feature       text not null,
    end_user      text,
    run_id        uuid,
    kind          text not null check (kind in ('chat', 'embed')),
    provider      text not null,
    model         text not null,
    streamed      boolean not null,
    idempotency   text,
    reserved      numeric not null,
    state         text not null check (state in ('open', 'finished', 'abandoned')),
    outcome       text,
    started_at    timestamptz not null,
    finished_at   timestamptz,
    input_tokens  bigint not null default 0,
    output_tokens bigint not null default 0,
    cost          numeric not null default 0,
    primary key (tenant_id, id)
) with (fillfactor = 80);
create index call_open on backstay.call (process_id) where state = 'open';
select backstay.fence('call');

-- What an open call has reserved from a budget. Its lease is the heartbeat of its call's process.
create table backstay.hold (
    tenant_id uuid not null,
    call_id   uuid not null,
    budget_id uuid not null,
    starts_at timestamptz not null,
    amount    numeric not null,
    primary key (tenant_id, call_id, budget_id)
);
create index hold_budget on backstay.hold (tenant_id, budget_id);
select backstay.fence('hold');

-- What each attempt used and cost; the sum of it is what was spent.
create table backstay.ledger (
    tenant_id        uuid not null,
    call_id          uuid not null,
    attempt          int not null,
    at               timestamptz not null,
    provider         text not null,
    model            text not null,
    feature          text not null,
    end_user         text,
    key_id           uuid,
    outcome          text not null,
    input_tokens     bigint not null,
    output_tokens    bigint not null,
    cached_tokens    bigint not null,
    reasoning_tokens bigint not null,
    estimated        boolean not null,
    cost             numeric not null,
    seconds          double precision not null,
    primary key (tenant_id, call_id, attempt)
);
create index ledger_at on backstay.ledger (tenant_id, at);
select backstay.fence('ledger');
