delete from backstay.budget where scope = 'run';
alter table backstay.budget
    drop constraint if exists budget_scope_check,
    add constraint budget_scope_check check (scope in ('tenant', 'key', 'user', 'feature', 'model'));
