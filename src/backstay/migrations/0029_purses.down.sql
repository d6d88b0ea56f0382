-- FORCE would hide the rows from the owner, too.
alter table backstay.budget no force row level security;
delete from backstay.budget where scope not in ('tenant', 'key', 'user', 'feature', 'model');
alter table backstay.budget force row level security;
alter table backstay.budget
    drop constraint if exists budget_scope_check,
    add constraint budget_scope_check check (scope in ('tenant', 'key', 'user', 'feature', 'model'));
