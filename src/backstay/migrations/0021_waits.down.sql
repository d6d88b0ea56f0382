drop table backstay.approval;
-- A run that has waited cannot go on in a release that knows no waits. The fence is forced on the owner too, so it is
-- lifted for a moment.
alter table backstay.run no force row level security;
alter table backstay.step no force row level security;
update backstay.run set state = 'failed', error = 'it waited, which the older release cannot', finished_at = now()
where state not in ('pending', 'running', 'completed', 'failed', 'cancelled', 'nondeterministic')
   or (state in ('pending', 'running') and exists (
       select 1 from backstay.step s
       where s.tenant_id = run.tenant_id and s.run_id = run.id and s.kind not in ('step', 'transaction', 'value')));
update backstay.step set kind = 'value' where kind not in ('step', 'transaction', 'value');
alter table backstay.step force row level security;
alter table backstay.run force row level security;
alter table backstay.step drop column due_at;
alter table backstay.step drop constraint if exists step_kind_check;
alter table backstay.step add constraint step_kind_check check (kind in ('step', 'transaction', 'value'));
drop index backstay.run_unfinished;
create index run_unfinished on backstay.run (tenant_id, id) where state in ('pending', 'running');
alter table backstay.run drop constraint if exists run_state_check;
alter table backstay.run add constraint run_state_check check (
    state in ('pending', 'running', 'completed', 'failed', 'cancelled', 'nondeterministic'));
