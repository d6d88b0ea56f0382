-- phase: expand
-- Runs that other runs wait for, deadlines, and runs that are to stop.

alter table backstay.run
    add column parent_id uuid,                 -- the run that waits for this one …
    add column parent_seq integer,             -- … in this step
    add column deadline timestamptz,
    add column cancel_reason text;             -- it is to stop; null: nobody has asked
create index run_children on backstay.run (tenant_id, parent_id) where parent_id is not null;
