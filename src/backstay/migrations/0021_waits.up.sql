-- phase: expand
-- Runs that wait, and the approvals they wait for.

alter table backstay.run drop constraint run_state_check;
alter table backstay.run add constraint run_state_check check (
    state in ('pending', 'running', 'waiting', 'completed', 'failed', 'cancelled', 'nondeterministic')) not valid;
alter table backstay.run validate constraint run_state_check;
drop index backstay.run_unfinished;
create index run_unfinished on backstay.run (tenant_id, id) where state in ('pending', 'running', 'waiting');

alter table backstay.step drop constraint step_kind_check;
alter table backstay.step add constraint step_kind_check check (
    kind in ('step', 'transaction', 'value', 'approval', 'timer', 'signal', 'child')) not valid;
alter table backstay.step validate constraint step_kind_check;
alter table backstay.step add column due_at timestamptz; -- when a wait ends at the latest

create table backstay.approval (
    tenant_id  uuid        not null,
    id         uuid        not null,
    run_id     uuid        not null,
    seq        integer     not null,   -- the step that waits for it
    workflow   text        not null,
    title      text        not null,
    request    jsonb       not null,   -- what is to be approved, as it was asked
    about      jsonb       not null,   -- links, such as the model call that wanted it
    role       text,                   -- who may decide it: this role (null: any) …
    permission text,                   -- … and who has this permission (null: none beside approvals:write)
    fallback   text        not null check (fallback in ('approve', 'deny')), -- what holds when nobody decides in time
    state      text        not null check (state in ('pending', 'approved', 'denied', 'expired', 'withdrawn')),
    asked_at   timestamptz not null,
    due_at     timestamptz,
    entry_id   uuid        not null,   -- the audit entry of the request, which an override names
    decided_at timestamptz,
    decider_id uuid,
    decider    text,
    reason     text,
    edited     jsonb,                  -- the fields that the decider has put in place of those asked for
    primary key (tenant_id, id),
    unique (tenant_id, run_id, seq),
    foreign key (tenant_id, run_id) references backstay.run (tenant_id, id) on delete cascade
) with (fillfactor = 80);
create index approval_pending on backstay.approval (tenant_id, id) where state = 'pending';
select backstay.fence('approval');
