-- name: lock_writes
-- Waits for the transactions that write to the collection, and keeps new ones waiting until this one has ended.
select pg_advisory_xact_lock(hashtextextended('spaces:' || %(tenant)s::text || ':' || %(collection)s::text, 0));

-- name: bound_the_wait
-- Writers wait behind this transaction while it waits: not for long.
select set_config('lock_timeout', %(timeout)s::text, true);

-- name: spaces
-- The spaces of a collection, the one that is searched first.
select s.id, s.model, coalesce(m.state, 'active') as state, s.dimensions, s.indexed_at, m.since, s.index_wish,
       s.index_kind as index, s.index_lists as lists, b.kind as build, b.phase as build_phase,
       b.done::float8 / nullif(b.total, 0) as build_share, b.error as build_error
from backstay.collection c
join backstay.space s on s.id = c.space_id or s.id in (
    select o.space_id from backstay.collection_space o where o.tenant_id = c.tenant_id and o.collection = c.name)
left join backstay.collection_space m on m.tenant_id = c.tenant_id and m.collection = c.name and m.space_id = s.id
left join backstay.space_build b on b.space_id = s.id
where c.tenant_id = %(tenant)s::uuid and c.name = %(collection)s::text
order by s.id = c.space_id desc, m.since desc;

-- name: counts
-- Chunks of a collection, and those that wait for a vector of a space or are parked there.
select (select count(*) from backstay.chunk c
        where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text) as chunks,
       count(*) filter (where p.error is null) as pending, count(*) filter (where p.error is not null) as parked
from backstay.embed_pending p where p.tenant_id = %(tenant)s::uuid and p.space_id = %(space)s::bigint;

-- name: sizes
-- Chunks of a collection and their estimated tokens.
select count(*) as chunks, coalesce(sum(tokens), 0)::bigint as tokens from backstay.chunk
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text;

-- name: put_state
-- A space of a collection enters a state.
insert into backstay.collection_space as m (tenant_id, collection, space_id, state, since)
values (%(tenant)s::uuid, %(collection)s::text, %(space)s::bigint, %(state)s::text, %(now)s::timestamptz)
on conflict (tenant_id, collection, space_id) do update
set state = excluded.state, since = excluded.since,
    filled_at = case when excluded.state = 'building' then null else m.filled_at end;

-- name: search_in
-- The one row that says whose vectors are searched.
update backstay.collection set space_id = %(space)s::bigint
where tenant_id = %(tenant)s::uuid and name = %(collection)s::text;

-- name: backfill
-- The next chunks, by id, that get a vector here too; those that are being deleted right now are passed over. Answers with
-- the ids that were looked at.
with next as materialized (
    select c.id, c.text_hash, c.tokens from backstay.chunk c
    where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text
      and (%(after)s::uuid is null or c.id > %(after)s::uuid)
    order by c.id limit %(limit)s::int for key share skip locked
), added as (
    insert into backstay.embed_pending (tenant_id, space_id, chunk_id, text_hash, tokens, since)
    select %(tenant)s::uuid, %(space)s::bigint, n.id, n.text_hash, n.tokens, %(now)s::timestamptz from next n
    where not exists (
        select from backstay.vec_template v where v.tenant_id = %(tenant)s::uuid and v.chunk_id = n.id)
    on conflict (tenant_id, space_id, chunk_id) do nothing
)
select id from next order by id;

-- name: filled
-- The backfill has taken up every chunk.
update backstay.collection_space set filled_at = %(now)s::timestamptz
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and space_id = %(space)s::bigint;

-- name: missing
-- Chunks without a vector in the space.
select count(*) from backstay.chunk c
where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text
  and not exists (select from backstay.vec_template v where v.tenant_id = c.tenant_id and v.chunk_id = c.id);

-- name: unaccounted
-- Chunks that have no vector in the space and do not wait for one: the backfill has not come to them.
select count(*) from backstay.chunk c
where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text
  and not exists (select from backstay.vec_template v where v.tenant_id = c.tenant_id and v.chunk_id = c.id)
  and not exists (
      select from backstay.embed_pending p
      where p.tenant_id = c.tenant_id and p.space_id = %(space)s::bigint and p.chunk_id = c.id);

-- name: behind
-- Chunks that wait for a vector of the new space, or are parked there, and have one in the old.
select count(*) from backstay.embed_pending p
join backstay.vec_template v on v.tenant_id = p.tenant_id and v.chunk_id = p.chunk_id
where p.tenant_id = %(tenant)s::uuid and p.space_id = %(space)s::bigint;

-- name: sample
-- Some vectors of the tenant.
select e::text from backstay.vec_template where tenant_id = %(tenant)s::uuid order by random() limit %(limit)s::int;

-- name: forget_waiting
-- Nothing waits for a vector of this space any more.
delete from backstay.embed_pending where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint;

-- name: hold_state
-- The state of a space of a collection, which stays as it is until this transaction ends.
select state from backstay.collection_space
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and space_id = %(space)s::bigint for share;

-- name: clear
-- Some vectors of the tenant go.
delete from backstay.vec_template where tenant_id = %(tenant)s::uuid and chunk_id in (
    select chunk_id from backstay.vec_template where tenant_id = %(tenant)s::uuid limit %(limit)s::int);

-- name: drop_judgements
-- The judgements of a collection go.
delete from backstay.judgement where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text;

-- name: add_judgements
-- Judgements of a collection.
insert into backstay.judgement (tenant_id, collection, query, relevant)
select %(tenant)s::uuid, %(collection)s::text, query, relevant
from unnest(%(queries)s::text[], %(relevant)s::jsonb[]) as g (query, relevant);

-- name: judgements
-- The judgements of a collection.
select query, relevant from backstay.judgement
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text order by query;
