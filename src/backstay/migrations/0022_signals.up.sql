-- phase: expand
-- Signals: what is sent to a run from outside, kept in order until the run asks for it.

create table backstay.signal (
    tenant_id uuid        not null,
    run_id    uuid        not null,
    number    integer     not null,   -- in the order of their commits, from 1
    name      text        not null,
    key       text,
    payload   jsonb       not null,
    sent_at   timestamptz not null,
    sender_id uuid        not null,
    sender    text        not null,
    taken_by  integer,                -- the step that got it
    primary key (tenant_id, run_id, number),
    foreign key (tenant_id, run_id) references backstay.run (tenant_id, id) on delete cascade
);
create unique index signal_key on backstay.signal (tenant_id, run_id, key) where key is not null;
select backstay.fence('signal');
