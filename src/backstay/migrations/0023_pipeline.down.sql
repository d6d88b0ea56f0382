drop index backstay.embed_call_asked;
create index embed_call_asked on backstay.embed_call (tenant_id, job_id) where state = 'asked';
drop index backstay.embed_call_space;
-- The fence is forced on the owner too, so it is lifted for a moment.
alter table backstay.embed_call no force row level security;
update backstay.embed_call set state = 'lost' where state not in ('asked', 'written', 'failed');
alter table backstay.embed_call force row level security;
alter table backstay.embed_call drop constraint if exists embed_call_state_check;
alter table backstay.embed_call add constraint embed_call_state_check
    check (state in ('asked', 'written', 'failed', 'lost'));
drop table backstay.embed_pace;
