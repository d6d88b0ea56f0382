-- phase: expand
-- Limits beside budgets: what is bounded is dollars, requests, tokens, or calls that are open at the same time.

-- A limit is a budget with another unit: one lock order and one admission hold for both.
alter table backstay.budget
    add column unit text not null default 'usd' check (unit in ('usd', 'requests', 'tokens', 'concurrency')),
    add constraint budget_concurrency_has_no_window check (unit <> 'concurrency' or period = 'total'),
    drop constraint budget_tenant_id_scope_subject_period_key,
    add unique (tenant_id, scope, subject, unit, period);

-- `spent` and `held` are in the budget's unit. `told` is the highest percent of which an event has told.
alter table backstay.budget_window add column told smallint not null default 0;

-- How many tokens the last answers had, newest last, for calls that reserve what is expected instead of the most.
create table backstay.recent_output (
    tenant_id uuid not null,
    feature   text not null,
    provider  text not null,
    model     text not null,
    tokens    bigint[] not null,
    primary key (tenant_id, feature, provider, model)
) with (fillfactor = 50);
select backstay.fence('recent_output');
