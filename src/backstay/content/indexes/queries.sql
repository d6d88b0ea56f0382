-- name: state
-- A space's index as far as it is valid, and about how many vectors it covers: as the planner reckons, from the size of the table.
select s.id as space, s.collection, s.model, s.dimensions, s.index_wish as wish,
       case when exists (select from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
                         join pg_catalog.pg_am a on a.oid = x.relam
                         where i.indrelid = c.oid and i.indisvalid and a.amname in ('hnsw', 'ivfflat'))
            then s.index_kind end as kind,
       s.index_lists as lists, s.indexed_at, s.index_rows as built_rows, s.index_seconds as built_seconds,
       exists (select from backstay.collection_space m
               where m.space_id = s.id and m.state = 'building' and m.filled_at is null) as filling,
       coalesce(case when c.reltuples >= 0 and c.relpages > 0
                     then c.reltuples / c.relpages * (pg_relation_size(c.oid) / 8192)
                     else pg_relation_size(c.oid)::float8 / (2 * s.dimensions + 72) end, 0)::bigint as rows,
       coalesce(pg_relation_size(c.oid), 0) as table_bytes,
       pg_size_bytes(current_setting('effective_cache_size')) as cache_bytes
from backstay.space s left join pg_catalog.pg_class c on c.oid = to_regclass('backstay.vec_' || s.id)
where s.id = %(space)s::bigint;

-- name: with_vectors
-- Spaces that have a table.
select id from backstay.space where dimensions is not null order by id;

-- name: wish
-- Which index a space should have.
update backstay.space set index_wish = %(kind)s::text where id = %(space)s::bigint;

-- name: stands
-- Which index the space has from now on; null: none.
update backstay.space
set index_kind = %(kind)s::text, index_lists = %(lists)s::int, indexed_at = %(at)s::timestamptz,
    index_rows = %(rows)s::bigint, index_seconds = %(seconds)s::real
where id = %(space)s::bigint;

-- name: report
-- How far a build is.
insert into backstay.space_build as b (space_id, kind, phase, done, total, started_at, seen_at)
values (%(space)s::bigint, %(kind)s::text, %(phase)s::text, %(done)s::bigint, %(total)s::bigint, %(now)s::timestamptz,
        %(now)s::timestamptz)
on conflict (space_id) do update
set kind = excluded.kind, phase = excluded.phase, done = excluded.done, total = excluded.total, error = null,
    seen_at = excluded.seen_at,
    started_at = case when b.kind = excluded.kind and b.error is null then b.started_at else excluded.started_at end;

-- name: failed
-- A build has failed; the job tries it again.
update backstay.space_build set error = %(error)s::text, seen_at = %(now)s::timestamptz
where space_id = %(space)s::bigint;

-- name: finished
-- No build is under way.
delete from backstay.space_build where space_id = %(space)s::bigint;

-- name: build
-- The build of a space that is under way, or has failed.
select kind, phase, done::float8 / nullif(total, 0) as share, started_at, seen_at, error
from backstay.space_build where space_id = %(space)s::bigint;
