-- phase: expand
-- The embedding pipeline: how often an embedder may be asked now, and what a request cost before its vectors are written.

-- How the requests of one tenant to one embedder go while it is in trouble; no row: nothing is known against it. Every
-- worker asks here first, so that what one was told holds for all.
create table backstay.embed_pace (
    tenant_id   uuid        not null,
    model       text        not null,
    rests_until timestamptz not null,
    failures    int         not null,
    width       int         not null check (width > 0),
    reason      text        not null,
    primary key (tenant_id, model)
);
comment on column backstay.embed_pace.rests_until is 'Nobody asks before.';
comment on column backstay.embed_pace.failures is 'Failed requests since the last that was answered.';
comment on column backstay.embed_pace.width is 'Requests that may be on their way at once afterwards; each answer doubles it.';
select backstay.fence('embed_pace');

-- `answered`: the provider has answered and been paid, the vectors are not written yet.
alter table backstay.embed_call drop constraint embed_call_state_check;
alter table backstay.embed_call add constraint embed_call_state_check
    check (state in ('asked', 'answered', 'written', 'failed', 'lost'));
create index embed_call_space on backstay.embed_call (tenant_id, space_id, id);
drop index backstay.embed_call_asked;
create index embed_call_asked on backstay.embed_call (tenant_id, job_id) where state in ('asked', 'answered');
