-- phase: expand
-- Agents: the answers that runs have given, with what they were made from and what they cost.

create table backstay.answer (
    tenant_id      uuid not null,
    run_id         uuid not null,
    stream_id      uuid not null,
    outcome        text not null check (outcome in ('answered', 'cancelled')),
    question       text not null,
    collection     text not null,
    model          text not null,
    text           text not null,
    sources        jsonb not null,
    search_mode    text not null,
    input_tokens   bigint not null,
    output_tokens  bigint not null,
    cost           numeric not null,
    created_at     timestamptz not null,
    primary key (tenant_id, run_id)
);
comment on column backstay.answer.model is 'Who answered, as the provider put it.';
comment on column backstay.answer.cost is 'USD for the answer that stands; what restarted calls cost is in the ledger.';

select backstay.fence('answer');
