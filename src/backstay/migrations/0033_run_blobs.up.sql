-- phase: expand
-- Inputs and outputs of runs and steps over 64 kB, beside the hot rows.

create table backstay.run_blob (
    tenant_id uuid    not null,
    run_id    uuid    not null,
    part      text    not null check (part in ('input', 'output', 'step')),
    seq       integer not null default -1, -- the step's number; of input and output it means nothing
    body      jsonb   not null,
    primary key (tenant_id, run_id, part, seq),
    foreign key (tenant_id, run_id) references backstay.run (tenant_id, id) on delete cascade
);
select backstay.fence('run_blob');

alter table backstay.run alter column input drop not null; -- null: it lies in run_blob
