-- phase: expand
-- Runs that get a second chance, and runs that undo what they did.

alter table backstay.run
    add column failed_step integer,  -- the step whose failure the run failed of
    add column undoing text check (undoing in ('failed', 'cancelled')), -- how it ends once it has undone what it did
    add column forked_from uuid,
    add column forked_step integer;  -- it has taken over the steps below
