-- name: layout
-- The listed segments of a collection, and whether it may have chunks that no segment and no delta names: it was written
-- by a release that knew of neither, and no fold has come by since.
select array(select id from backstay.bm_segment s
             where s.tenant_id = c.tenant_id and s.collection = c.name and s.listed order by id) as segments, c.pivot,
       not c.gathered or exists (
           select from backstay.bm_delta d
           where d.tenant_id = c.tenant_id and d.collection = c.name and d.added is null) as strays
from backstay.collection c
where c.tenant_id = %(tenant)s::uuid and c.name = %(collection)s::text;

-- name: postings
-- The lists of these terms in these segments.
select segment_id, term, places, counts from backstay.bm_posting
where tenant_id = %(tenant)s::uuid and segment_id = any(%(segments)s::bigint[]) and term = any(%(terms)s::int[]);

-- name: rank
-- An empty text is added to the ids of a segment wherever all of them are read: that unpacks them once, not once for each.
-- Exact scores of chunks at these places of segments and, when wanted, of all that are in no listed segment.
select c.id as chunk_id, c.content_id, -(c.bm operator(public.<#>) %(query)s::public.sparsevec) as score
from backstay.chunk c
where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text and c.id = any(array(
    select encode(substring(s.ids from 16 * g.place + 1 for 16), 'hex')::uuid
    from unnest(%(segments)s::bigint[], %(places)s::int[]) as g (segment, place)
    join backstay.bm_segment s on s.tenant_id = %(tenant)s::uuid and s.id = g.segment
    union all
    select encode(substring(s.ids from 16 * g.place + 1 for 16), 'hex')::uuid
    from (select l.chunks, l.ids || ''::bytea as ids from backstay.bm_segment l
          where l.tenant_id = %(tenant)s::uuid and l.collection = %(collection)s::text and not l.listed
            and %(loose)s::boolean offset 0) s,
         generate_series(0, s.chunks - 1) as g (place)
    union all
    select unnest(w.added) from backstay.bm_delta w
    where w.tenant_id = %(tenant)s::uuid and w.collection = %(collection)s::text and %(loose)s::boolean))
order by score desc, c.id limit %(limit)s::int;

-- name: rank_where
-- The same over documents that a filter lets through.
select c.id as chunk_id, c.content_id, -(c.bm operator(public.<#>) %(query)s::public.sparsevec) as score
from backstay.chunk c
join backstay.content d on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text and c.id = any(array(
    select encode(substring(s.ids from 16 * g.place + 1 for 16), 'hex')::uuid
    from unnest(%(segments)s::bigint[], %(places)s::int[]) as g (segment, place)
    join backstay.bm_segment s on s.tenant_id = %(tenant)s::uuid and s.id = g.segment
    union all
    select encode(substring(s.ids from 16 * g.place + 1 for 16), 'hex')::uuid
    from (select l.chunks, l.ids || ''::bytea as ids from backstay.bm_segment l
          where l.tenant_id = %(tenant)s::uuid and l.collection = %(collection)s::text and not l.listed
            and %(loose)s::boolean offset 0) s,
         generate_series(0, s.chunks - 1) as g (place)
    union all
    select unnest(w.added) from backstay.bm_delta w
    where w.tenant_id = %(tenant)s::uuid and w.collection = %(collection)s::text and %(loose)s::boolean))
  and d.body @> %(contains)s::jsonb
  and (%(path)s::jsonpath is null or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true))
order by score desc, c.id limit %(limit)s::int;

-- name: scored
-- Exact scores of chunks that were found before.
select c.id as chunk_id, c.content_id, -(c.bm operator(public.<#>) %(query)s::public.sparsevec) as score
from backstay.chunk c
where c.tenant_id = %(tenant)s::uuid and c.id = any(%(ids)s::uuid[])
order by score desc, c.id;

-- name: take_building
-- Whether nobody else builds lists of this collection; then nobody does until the transaction ends.
select pg_try_advisory_xact_lock(
    hashtextextended('postings:' || %(tenant)s::text || ':' || %(collection)s::text, 0));

-- name: wait_building
-- Waits until nobody else builds lists of this collection; then nobody does until the transaction ends.
select pg_advisory_xact_lock(
    hashtextextended('postings:' || %(tenant)s::text || ':' || %(collection)s::text, 0));

-- name: standing
-- Folded chunks of a collection.
select chunks from backstay.collection where tenant_id = %(tenant)s::uuid and name = %(collection)s::text;

-- name: segments
-- The segments of a collection, small ones first.
select id, chunks, listed from backstay.bm_segment
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text
order by chunks, id;

-- name: ids
-- The chunks in these segments.
select ids from backstay.bm_segment where tenant_id = %(tenant)s::uuid and id = any(%(segments)s::bigint[]) order by id;

-- name: living
-- Of how many chunks in each segment there still is a row.
select s.id, (
    select count(*) from backstay.chunk c
    where c.tenant_id = s.tenant_id and c.id = any(array(
        select encode(substring(s.ids from 16 * g.place + 1 for 16), 'hex')::uuid
        from generate_series(0, s.chunks - 1) as g (place)))) as living
from (select l.id, l.tenant_id, l.chunks, l.ids || ''::bytea as ids from backstay.bm_segment l
      where l.tenant_id = %(tenant)s::uuid and l.collection = %(collection)s::text offset 0) s;

-- name: weights
-- Those of these chunks that are there: id, length, the pivot of their weights, and the weights as the driver sends them.
select c.id, c.length, c.pivot, public.sparsevec_send(c.bm) from backstay.chunk c
where c.tenant_id = %(tenant)s::uuid and c.id = any(%(ids)s::uuid[])
order by c.id;

-- name: add_segment
-- A set of chunks.
insert into backstay.bm_segment (tenant_id, collection, chunks, listed, ids)
values (%(tenant)s::uuid, %(collection)s::text, %(chunks)s::int, %(listed)s::boolean, %(ids)s::bytea)
returning id;

-- name: add_postings
-- The lists of a segment, cut out of two long values.
insert into backstay.bm_posting (tenant_id, segment_id, term, places, counts)
select %(tenant)s::uuid, %(segment)s::bigint, g.term,
       case when g.size > 0 then substring(%(places)s::bytea from g.place_at for g.size) end,
       substring(%(counts)s::bytea from g.count_at for g.counted)
from unnest(%(terms)s::int[], %(places_at)s::int[], %(sizes)s::int[], %(counts_at)s::int[], %(counted)s::int[])
    as g (term, place_at, size, count_at, counted);

-- name: drop_postings
-- The lists of segments that are replaced.
delete from backstay.bm_posting where tenant_id = %(tenant)s::uuid and segment_id = any(%(segments)s::bigint[]);

-- name: drop_segments
-- Segments that are replaced.
delete from backstay.bm_segment where tenant_id = %(tenant)s::uuid and id = any(%(segments)s::bigint[]);

-- name: strays
-- Chunks of a collection that no segment and no delta names.
select c.id from backstay.chunk c
where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text and c.id not in (
    select encode(substring(s.ids from 16 * g.place + 1 for 16), 'hex')::uuid
    from (select l.chunks, l.ids || ''::bytea as ids from backstay.bm_segment l
          where l.tenant_id = %(tenant)s::uuid and l.collection = %(collection)s::text offset 0) s,
         generate_series(0, s.chunks - 1) as g (place)
    union all
    select unnest(w.added) from backstay.bm_delta w
    where w.tenant_id = %(tenant)s::uuid and w.collection = %(collection)s::text)
order by c.id;

-- name: gathered
-- Every chunk of the collection is named by a segment or a delta.
update backstay.collection set gathered = true
where tenant_id = %(tenant)s::uuid and name = %(collection)s::text and not gathered;

-- name: ungathered
-- Collections whose chunks no fold has gathered.
select tenant_id, name from backstay.collection where not gathered order by created_at limit %(limit)s::int;
