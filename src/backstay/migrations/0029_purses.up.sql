-- phase: expand
-- Budgets of runs: a run may be started with one, which binds what it and its children spend, and goes when it ends.

alter table backstay.budget
    drop constraint budget_scope_check,
    add constraint budget_scope_check check (scope in ('tenant', 'key', 'user', 'feature', 'model', 'run'));
