-- name: collection
-- A tenant's collection with its space.
select c.name, c.fields, c.by_code, c.format, c.chunk_size, c.overlap, c.pivot, c.chunks, c.length, c.created_at,
       c.attached_id, c.space_id, s.model, s.dimensions, s.indexed_at, s.index_kind as index, s.index_lists as lists,
       exists (select from backstay.enrichment e where e.tenant_id = c.tenant_id and e.collection = c.name) as enriched,
       array(select m.space_id from backstay.collection_space m
             where m.tenant_id = c.tenant_id and m.collection = c.name and m.state in ('building', 'standby')
             order by m.space_id) as also,
       array(select o.model from backstay.collection_space m join backstay.space o on o.id = m.space_id
             where m.tenant_id = c.tenant_id and m.collection = c.name) as models
from backstay.collection c left join backstay.space s on s.id = c.space_id
where c.tenant_id = %(tenant)s::uuid and c.name = %(name)s::text;

-- name: collections
-- A tenant's collections by name.
select c.name, c.fields, c.by_code, c.format, c.chunk_size, c.overlap, c.pivot, c.chunks, c.length, c.created_at,
       c.attached_id, c.space_id, s.model, s.dimensions, s.indexed_at, s.index_kind as index, s.index_lists as lists,
       exists (select from backstay.enrichment e where e.tenant_id = c.tenant_id and e.collection = c.name) as enriched,
       array(select m.space_id from backstay.collection_space m
             where m.tenant_id = c.tenant_id and m.collection = c.name and m.state in ('building', 'standby')
             order by m.space_id) as also,
       array(select o.model from backstay.collection_space m join backstay.space o on o.id = m.space_id
             where m.tenant_id = c.tenant_id and m.collection = c.name) as models
from backstay.collection c left join backstay.space s on s.id = c.space_id
where c.tenant_id = %(tenant)s::uuid and (%(after)s::text is null or c.name > %(after)s::text)
order by c.name limit %(limit)s::int;

-- name: share_writes
-- A writer of the collection is under way: its spaces stay as they are until the writer's transaction has ended.
select pg_advisory_xact_lock_shared(hashtextextended('spaces:' || %(tenant)s::text || ':' || %(collection)s::text, 0));

-- name: take_space
-- The space of a definition, made when it is new.
select backstay.take_space(%(collection)s::text, %(model)s::text, %(chunker)s::text, %(now)s::timestamptz);

-- name: declare
-- A collection, unless one of that name stands.
insert into backstay.collection (
    tenant_id, name, space_id, fields, by_code, format, chunk_size, overlap, pivot, created_at)
values (
    %(tenant)s::uuid, %(name)s::text, %(space)s::bigint, %(fields)s::text[], %(by_code)s::boolean, %(format)s::text,
    %(chunk_size)s::int, %(overlap)s::int, %(pivot)s::real, %(now)s::timestamptz)
on conflict (tenant_id, name) do nothing;

-- name: is_attached
-- Whether a tenant's collection of this name has the rows of an attached table.
select exists (select from backstay.attached a
               where a.name = %(name)s::text and (a.owner is null or a.owner = %(tenant)s::uuid));

-- name: redefine
-- Another definition for a collection that has no documents.
update backstay.collection c
set space_id = %(space)s::bigint, fields = %(fields)s::text[], by_code = %(by_code)s::boolean,
    format = %(format)s::text, chunk_size = %(chunk_size)s::int, overlap = %(overlap)s::int
where c.tenant_id = %(tenant)s::uuid and c.name = %(name)s::text
  and not exists (
    select from backstay.content d where d.tenant_id = c.tenant_id and d.collection = c.name);

-- name: add
-- Documents that are new; those that stand are locked and stay as they are. One after the other in the order of their
-- ids, new or not: writers of overlapping sets then wait for each other and never in a circle.
insert into backstay.content as d (tenant_id, collection, id, rev, body, body_hash, text_hash, created_at, updated_at)
select %(tenant)s::uuid, %(collection)s::text, g.id, 1, g.body, g.body_hash, g.text_hash, %(now)s::timestamptz,
       %(now)s::timestamptz
from unnest(%(ids)s::text[], %(bodies)s::jsonb[], %(body_hashes)s::bytea[], %(text_hashes)s::bytea[])
    as g (id, body, body_hash, text_hash)
order by g.id
on conflict (tenant_id, collection, id) do update set rev = d.rev where false
returning id;

-- name: change
-- Documents that stand, are locked by `add` and have another body now; and whether what is searched is another.
with old as materialized (
    select d.id, d.text_hash from backstay.content d
    where d.tenant_id = %(tenant)s::uuid and d.collection = %(collection)s::text and d.id = any(%(ids)s::text[])
)
update backstay.content d
set rev = d.rev + 1, body = g.body, body_hash = g.body_hash, text_hash = g.text_hash,
    updated_at = %(now)s::timestamptz, archived_at = null
from unnest(%(ids)s::text[], %(bodies)s::jsonb[], %(body_hashes)s::bytea[], %(text_hashes)s::bytea[])
    as g (id, body, body_hash, text_hash)
join old on old.id = g.id
where d.tenant_id = %(tenant)s::uuid and d.collection = %(collection)s::text and d.id = g.id
  and (d.body_hash <> g.body_hash or d.archived_at is not null)
returning d.id, d.rev, old.text_hash <> g.text_hash as text_changed;

-- name: revisions
-- The revision of each of these documents.
select id, rev from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id = any(%(ids)s::text[]);

-- name: get
-- One document.
select id, rev, body, created_at, updated_at from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id = %(id)s::text;

-- name: documents
-- Documents by id.
select id, rev, body, created_at, updated_at from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text
  and (%(after)s::text is null or id > %(after)s::text)
order by id limit %(limit)s::int;

-- name: lock_document
-- Keeps everyone else from writing this document; its revision when it stands.
select rev from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id = %(id)s::text for update;

-- name: delete
-- A document; its chunks and what waits for them go with it.
delete from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id = %(id)s::text;

-- name: lock_documents
-- Keeps everyone else from writing these documents, in the order in which everyone locks them; their revisions.
select id, rev from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id = any(%(ids)s::text[])
order by id for update;

-- name: delete_many
-- Documents; their chunks and what waits for them go with them.
delete from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id = any(%(ids)s::text[]);

-- name: old_chunks
-- The chunks of these documents, locked in the order in which everyone locks them. Those that stay may get their vector
-- meanwhile.
select id, content_id, ord, text_hash, length, bm::text as bm from backstay.chunk
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and content_id = any(%(ids)s::text[])
order by id for no key update;

-- name: delete_chunks
-- Chunks whose text is gone.
delete from backstay.chunk where tenant_id = %(tenant)s::uuid and id = any(%(ids)s::uuid[]);

-- name: move_chunks
-- Chunks whose text stands, at another place in the document.
update backstay.chunk c set ord = m.ord
from unnest(%(ids)s::uuid[], %(ords)s::int[]) as m (id, ord)
where c.tenant_id = %(tenant)s::uuid and c.id = m.id;

-- name: add_chunks
-- Chunks, searchable as text from the commit on. `headings` are JSON arrays, because unnest flattens SQL ones.
insert into backstay.chunk (
    tenant_id, id, collection, content_id, ord, heading, text, text_hash, length, tokens, pivot, bm)
select %(tenant)s::uuid, id, %(collection)s::text, content_id, ord,
       array(select jsonb_array_elements_text(heading)), text, text_hash, length, tokens, %(pivot)s::real,
       bm::public.sparsevec
from unnest(%(ids)s::uuid[], %(content_ids)s::text[], %(ords)s::int[], %(headings)s::jsonb[], %(texts)s::text[],
            %(text_hashes)s::bytea[], %(lengths)s::int[], %(tokens)s::int[], %(bms)s::text[])
    as g (id, content_id, ord, heading, text, text_hash, length, tokens, bm);

-- name: add_pending
-- Chunks that need a vector of this space.
insert into backstay.embed_pending (tenant_id, space_id, chunk_id, text_hash, tokens, since)
select %(tenant)s::uuid, %(space)s::bigint, id, text_hash, tokens, %(now)s::timestamptz
from unnest(%(ids)s::uuid[], %(text_hashes)s::bytea[], %(tokens)s::int[]) as g (id, text_hash, tokens)
on conflict (tenant_id, space_id, chunk_id) do nothing;

-- name: add_delta
-- What a write changed in the statistics.
insert into backstay.bm_delta (tenant_id, collection, id, chunks, length, terms, counts, added)
values (%(tenant)s::uuid, %(collection)s::text, %(id)s::uuid, %(chunks)s::bigint, %(length)s::bigint,
        %(terms)s::int[], %(counts)s::int[], %(added)s::uuid[]);

-- name: totals
-- Chunks and terms of a collection, deltas included.
select c.chunks + coalesce(d.chunks, 0) as chunks, c.length + coalesce(d.length, 0) as length
from backstay.collection c
left join (select sum(chunks)::bigint as chunks, sum(length)::bigint as length from backstay.bm_delta
           where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text) d on true
where c.tenant_id = %(tenant)s::uuid and c.name = %(collection)s::text;

-- name: frequencies
-- In how many chunks each of these terms is, deltas included.
select term, sum(chunks)::bigint as chunks
from (
    select term, chunks from backstay.bm_term
    where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and term = any(%(terms)s::int[])
    union all
    select w.term, d.counts[array_position(d.terms, w.term)]
    from backstay.bm_delta d, unnest(%(terms)s::int[]) as w (term)
    where d.tenant_id = %(tenant)s::uuid and d.collection = %(collection)s::text and w.term = any(d.terms)
) found
group by term;

-- name: lock_folding
-- One folder at a time per collection; the others wait.
select pg_advisory_xact_lock(hashtextextended('bm:' || %(tenant)s::text || ':' || %(collection)s::text, 0));

-- name: take_deltas
-- Deltas, oldest first, taken out.
delete from backstay.bm_delta
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id in (
    select id from backstay.bm_delta
    where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text order by id limit %(limit)s::int)
returning chunks, length, terms, counts, added;

-- name: fold_terms
-- Adds changes to the document frequencies.
insert into backstay.bm_term as b (tenant_id, collection, term, chunks)
select %(tenant)s::uuid, %(collection)s::text, term, count
from unnest(%(terms)s::int[], %(counts)s::bigint[]) as g (term, count) order by term
on conflict (tenant_id, collection, term) do update set chunks = b.chunks + excluded.chunks;

-- name: drop_terms
-- Terms that no chunk has any more.
delete from backstay.bm_term
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and term = any(%(terms)s::int[])
  and chunks <= 0;

-- name: fold_totals
-- Adds changes to a collection's totals.
update backstay.collection set chunks = chunks + %(chunks)s::bigint, length = length + %(length)s::bigint
where tenant_id = %(tenant)s::uuid and name = %(collection)s::text;

-- name: set_pivot
-- The chunk length that weights are normalised by from now on.
update backstay.collection set pivot = %(pivot)s::real
where tenant_id = %(tenant)s::uuid and name = %(collection)s::text;

-- name: outweighed
-- Chunks whose weights were made with another pivot. Those that someone writes now are passed over: the writer may
-- delete them, else the next round finds them.
select id, heading, text from backstay.chunk
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text
  and (pivot < %(pivot)s::real or pivot > %(pivot)s::real)
order by id limit %(limit)s::int for no key update skip locked;

-- name: weigh
-- New weights for chunks.
update backstay.chunk c set bm = g.bm::public.sparsevec, pivot = %(pivot)s::real
from unnest(%(ids)s::uuid[], %(bms)s::text[]) as g (id, bm)
where c.tenant_id = %(tenant)s::uuid and c.id = g.id;

-- name: search_text
-- The text leg: BM25 as an inner product, every chunk of the collection.
select id as chunk_id, content_id, score
from (
    select c.id, c.content_id, -(c.bm operator(public.<#>) %(query)s::public.sparsevec) as score
    from backstay.chunk c
    where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text
    order by c.bm operator(public.<#>) %(query)s::public.sparsevec, c.id
    limit %(limit)s::int
) best
where score > 0
order by score desc, id;

-- name: search_text_where
-- The text leg over documents that a filter lets through.
select id as chunk_id, content_id, score
from (
    select c.id, c.content_id, -(c.bm operator(public.<#>) %(query)s::public.sparsevec) as score
    from backstay.chunk c
    join backstay.content d
        on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
    where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text and d.body @> %(contains)s::jsonb
      and (%(path)s::jsonpath is null
           or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true))
    order by c.bm operator(public.<#>) %(query)s::public.sparsevec, c.id
    limit %(limit)s::int
) best
where score > 0
order by score desc, id;

-- name: count_vectors
-- How many vectors a search of this tenant ranges over, counted up to `limit`.
select count(*) from (
    select from backstay.vec_template where tenant_id = %(tenant)s::uuid limit %(limit)s::int) v;

-- name: count_vectors_where
-- The same for documents that a filter lets through.
select count(*) from (
    select from backstay.vec_template v
    join backstay.chunk c on c.tenant_id = v.tenant_id and c.id = v.chunk_id
    join backstay.content d
        on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
    where v.tenant_id = %(tenant)s::uuid and d.body @> %(contains)s::jsonb
      and (%(path)s::jsonpath is null
           or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true)) limit %(limit)s::int) v;

-- name: estimate_vectors
-- About how many vectors of all tenants stand in the table: as the planner reckons, from the table's size.
select coalesce(case when c.reltuples >= 0 and c.relpages > 0
                     then c.reltuples / c.relpages * (pg_relation_size(c.oid) / 8192)
                     else pg_relation_size(c.oid)::float8 / (2 * greatest(a.atttypmod, 1) + 72) end, 0)::bigint
from pg_catalog.pg_class c
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = 'e'
where c.oid = 'backstay.vec_template'::regclass;

-- name: search_exact
-- The vector leg by looking at every vector of the tenant: the `+ 0` keeps an index out.
select c.id as chunk_id, c.content_id, 1 - nearest.distance as score
from (
    select v.chunk_id, v.text_hash, (v.e operator(public.<=>) %(query)s::public.halfvec) + 0 as distance
    from backstay.vec_template v
    where v.tenant_id = %(tenant)s::uuid
    order by distance limit %(limit)s::int
) nearest
join backstay.chunk c
    on c.tenant_id = %(tenant)s::uuid and c.id = nearest.chunk_id and c.text_hash = nearest.text_hash
order by nearest.distance, c.id;

-- name: search_exact_where
-- The same over documents that a filter lets through.
select c.id as chunk_id, c.content_id, 1 - ((v.e operator(public.<=>) %(query)s::public.halfvec) + 0) as score
from backstay.vec_template v
join backstay.chunk c on c.tenant_id = v.tenant_id and c.id = v.chunk_id and c.text_hash = v.text_hash
join backstay.content d on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
where v.tenant_id = %(tenant)s::uuid and d.body @> %(contains)s::jsonb
      and (%(path)s::jsonpath is null
           or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true))
order by (v.e operator(public.<=>) %(query)s::public.halfvec) + 0, c.id limit %(limit)s::int;

-- name: search_few_where
-- The same when there may be many: looks at `most` vectors, and says at how many. One pass for counting and searching.
with among as materialized (
    select c.id, c.content_id, v.e operator(public.<=>) %(query)s::public.halfvec as distance
    from backstay.vec_template v
    join backstay.chunk c on c.tenant_id = v.tenant_id and c.id = v.chunk_id and c.text_hash = v.text_hash
    join backstay.content d on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
    where v.tenant_id = %(tenant)s::uuid and d.body @> %(contains)s::jsonb
      and (%(path)s::jsonpath is null
           or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true))
    limit %(most)s::int
)
select id, content_id, 1 - distance, count(*) over () from among order by distance, id limit %(limit)s::int;

-- name: tune
-- Settings for the rest of this transaction.
select count(set_config(name, value, true)) from unnest(%(names)s::text[], %(values)s::text[]) as g (name, value);

-- name: search_indexed
-- The vector leg by HNSW or IVFFlat. The scan's order is relaxed, so an outer sort follows, which `+ 0` keeps from
-- being elided.
with nearest as materialized (
    select v.chunk_id, v.text_hash, v.e operator(public.<=>) %(query)s::public.halfvec as distance
    from backstay.vec_template v
    where v.tenant_id = %(tenant)s::uuid
    order by v.e operator(public.<=>) %(query)s::public.halfvec limit %(limit)s::int
)
select c.id as chunk_id, c.content_id, 1 - nearest.distance as score
from nearest
join backstay.chunk c
    on c.tenant_id = %(tenant)s::uuid and c.id = nearest.chunk_id and c.text_hash = nearest.text_hash
order by nearest.distance + 0, c.id;

-- name: search_indexed_where
-- The same over documents that a filter lets through.
with nearest as materialized (
    select c.id, c.content_id, v.e operator(public.<=>) %(query)s::public.halfvec as distance
    from backstay.vec_template v
    join backstay.chunk c on c.tenant_id = v.tenant_id and c.id = v.chunk_id and c.text_hash = v.text_hash
    join backstay.content d
        on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
    where v.tenant_id = %(tenant)s::uuid and d.body @> %(contains)s::jsonb
      and (%(path)s::jsonpath is null
           or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true))
    order by v.e operator(public.<=>) %(query)s::public.halfvec limit %(limit)s::int
)
select id as chunk_id, content_id, 1 - distance as score from nearest order by distance + 0, id;

-- name: search_binary
-- The vector leg by one bit for each number: many candidates, and the vectors themselves say which are nearest. `bit(1)`
-- stands for the dimensions of the space.
with near as materialized (
    select v.chunk_id, v.text_hash, v.e
    from backstay.vec_template v
    where v.tenant_id = %(tenant)s::uuid
    order by (public.binary_quantize(v.e)::bit(1)) operator(public.<~>)
             (public.binary_quantize(%(query)s::public.halfvec)::bit(1)) limit %(candidates)s::int
)
select c.id as chunk_id, c.content_id, 1 - (near.e operator(public.<=>) %(query)s::public.halfvec) as score
from near
join backstay.chunk c on c.tenant_id = %(tenant)s::uuid and c.id = near.chunk_id and c.text_hash = near.text_hash
order by (near.e operator(public.<=>) %(query)s::public.halfvec) + 0, c.id limit %(limit)s::int;

-- name: search_binary_where
-- The same over documents that a filter lets through.
with near as materialized (
    select c.id, c.content_id, v.e
    from backstay.vec_template v
    join backstay.chunk c on c.tenant_id = v.tenant_id and c.id = v.chunk_id and c.text_hash = v.text_hash
    join backstay.content d
        on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
    where v.tenant_id = %(tenant)s::uuid and d.body @> %(contains)s::jsonb
      and (%(path)s::jsonpath is null
           or jsonb_path_match(d.body, %(path)s::jsonpath, %(values)s::jsonb, true))
    order by (public.binary_quantize(v.e)::bit(1)) operator(public.<~>)
             (public.binary_quantize(%(query)s::public.halfvec)::bit(1)) limit %(candidates)s::int
)
select id as chunk_id, content_id, 1 - (e operator(public.<=>) %(query)s::public.halfvec) as score
from near order by (e operator(public.<=>) %(query)s::public.halfvec) + 0, id limit %(limit)s::int;

-- name: hits
-- What is shown of chunks that were found.
select c.id as chunk, c.content_id as id, c.text, c.heading, d.body
from backstay.chunk c
join backstay.content d on d.tenant_id = c.tenant_id and d.collection = c.collection and d.id = c.content_id
where c.tenant_id = %(tenant)s::uuid and c.id = any(%(ids)s::uuid[]);

-- name: has_pending
-- Whether chunks wait for a vector of this space.
select exists (select from backstay.embed_pending where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint)
    as pending;

-- name: disown
-- Requests that an earlier attempt of this job left behind: their answer, if there was one, is lost; what it cost stands.
update backstay.embed_call set state = 'lost', finished_at = %(now)s::timestamptz
where tenant_id = %(tenant)s::uuid and job_id = %(job)s::uuid and state in ('asked', 'answered') returning id;

-- name: carried
-- The chunks of these requests, locked. Rows that a writer is deleting are passed over: nobody waits for anybody.
select chunk_id from backstay.embed_pending
where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint and call_id = any(%(calls)s::uuid[])
for update skip locked;

-- name: parked
-- Chunks that the embedder has refused, locked in the same way.
select chunk_id from backstay.embed_pending
where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint and error is not null
limit %(limit)s::int for update skip locked;

-- name: free
-- Chunks that are locked go with the next request. In a statement of its own: joined to the locking, the planner, which
-- knows nothing of a table that was just filled, has compared each row with each.
update backstay.embed_pending set call_id = null, expires_at = null, error = null
where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint and chunk_id = any(%(chunks)s::uuid[]);

-- name: waiting
-- The chunks that have waited longest and that no request carries now.
select p.chunk_id, p.text_hash, p.tokens
from backstay.embed_pending p
where p.tenant_id = %(tenant)s::uuid and p.space_id = %(space)s::bigint and p.error is null
  and (p.call_id is null or p.expires_at < %(now)s::timestamptz)
order by p.since, p.chunk_id limit %(limit)s::int for update skip locked;

-- name: carry
-- These chunks, which are locked, go with this request.
update backstay.embed_pending set call_id = %(call)s::uuid, expires_at = %(expires_at)s::timestamptz
where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint and chunk_id = any(%(chunks)s::uuid[]);

-- name: texts
-- What is embedded of chunks, headings first.
select id, heading, text from backstay.chunk where tenant_id = %(tenant)s::uuid and id = any(%(ids)s::uuid[]);

-- name: ask
-- The intent: a request is about to be sent.
insert into backstay.embed_call (tenant_id, id, space_id, job_id, state, inputs, tokens, asked_at)
values (%(tenant)s::uuid, %(id)s::uuid, %(space)s::bigint, %(job)s::uuid, 'asked', %(inputs)s::int, %(tokens)s::int,
        %(now)s::timestamptz);

-- name: ended
-- How a request ended.
update backstay.embed_call
set state = %(state)s::text, tokens = coalesce(%(tokens)s::int, tokens), cost = coalesce(%(cost)s::numeric, cost),
    error = %(error)s::text, finished_at = %(now)s::timestamptz
where tenant_id = %(tenant)s::uuid and id = %(id)s::uuid and state in ('asked', 'answered');

-- name: paid
-- A request was answered, and what that cost. Committed before anything is done with the answer.
update backstay.embed_call set state = 'answered', tokens = %(tokens)s::int, cost = %(cost)s::numeric
where tenant_id = %(tenant)s::uuid and id = %(id)s::uuid and state = 'asked' returning asked_at;

-- name: embed_calls
-- Requests to the embedder for a space, newest first.
select id, state, inputs, tokens, cost, error, asked_at, finished_at from backstay.embed_call
where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint and (%(after)s::uuid is null or id < %(after)s::uuid)
order by id desc limit %(limit)s::int;

-- name: pace
-- How requests to an embedder go, locked: who is about to send one decides alone.
select rests_until, failures, width, reason from backstay.embed_pace
where tenant_id = %(tenant)s::uuid and model = %(embedder)s::text for update;

-- name: trouble
-- The same without the lock, for whoever looks.
select rests_until, failures, width, reason from backstay.embed_pace
where tenant_id = %(tenant)s::uuid and model = %(embedder)s::text;

-- name: under_way
-- Requests of the tenant to an embedder that are on their way; those of a process that died long ago do not count.
select count(*) from backstay.embed_call c join backstay.space s on s.id = c.space_id
where c.tenant_id = %(tenant)s::uuid and c.state = 'asked' and s.model = %(embedder)s::text
  and c.asked_at > %(since)s::timestamptz;

-- name: rest
-- An embedder is left alone until a time, by everyone. The later of two times holds.
insert into backstay.embed_pace as p (tenant_id, model, rests_until, failures, width, reason)
values (%(tenant)s::uuid, %(embedder)s::text, %(until)s::timestamptz, %(failures)s::int, 1, %(reason)s::text)
on conflict (tenant_id, model) do update
set rests_until = greatest(p.rests_until, excluded.rests_until), failures = excluded.failures, width = 1,
    reason = excluded.reason;

-- name: recover
-- A request that was sent after the rest was answered: twice as many may go at once.
update backstay.embed_pace set failures = 0, width = width * 2
where tenant_id = %(tenant)s::uuid and model = %(embedder)s::text and rests_until <= %(asked_at)s::timestamptz
returning width;

-- name: forget_trouble
-- The embedder has recovered.
delete from backstay.embed_pace where tenant_id = %(tenant)s::uuid and model = %(embedder)s::text;

-- name: hurry
-- An operator lets the embedder be asked again now, one request first.
update backstay.embed_pace set rests_until = %(now)s::timestamptz
where tenant_id = %(tenant)s::uuid and model = %(embedder)s::text and rests_until > %(now)s::timestamptz;

-- name: keep_chunks
-- Those of these chunks that still have the text that was sent, kept so until the vectors are committed. One that is
-- being deleted right now is passed over: it waits on, and nobody waits for anybody. One that is being moved or weighed
-- anew is not: its text stays, and its request would be paid for again.
select c.id from backstay.chunk c
join unnest(%(ids)s::uuid[], %(text_hashes)s::bytea[]) as g (id, text_hash) on g.id = c.id and g.text_hash = c.text_hash
where c.tenant_id = %(tenant)s::uuid
order by c.id for key share of c skip locked;

-- name: write_vectors
-- Vectors of chunks that `keep_chunks` has locked.
insert into backstay.vec_template as v (tenant_id, chunk_id, text_hash, e)
select %(tenant)s::uuid, id, text_hash, e
from unnest(%(ids)s::uuid[], %(text_hashes)s::bytea[], %(vectors)s::public.halfvec[]) as g (id, text_hash, e)
on conflict (tenant_id, chunk_id) do update set text_hash = excluded.text_hash, e = excluded.e;

-- name: halfvec_oid
-- The number of the type in this database.
select 'public.halfvec'::regtype::oid;

-- name: delete_vectors
-- Vectors of chunks that are gone.
delete from backstay.vec_template where tenant_id = %(tenant)s::uuid and chunk_id = any(%(ids)s::uuid[]);

-- name: settle
-- Chunks that have their vector wait no longer. Answers with their documents.
with gone as (
    delete from backstay.embed_pending
    where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint and chunk_id = any(%(chunks)s::uuid[])
    returning chunk_id)
select distinct c.content_id from gone join backstay.chunk c on c.tenant_id = %(tenant)s::uuid and c.id = gone.chunk_id;

-- name: park
-- Chunks that are locked and that the embedder refuses: they wait for an operator or another text, and stop nobody.
update backstay.embed_pending set error = %(error)s::text, call_id = null, expires_at = null
where tenant_id = %(tenant)s::uuid and space_id = %(space)s::bigint and chunk_id = any(%(chunks)s::uuid[]);

-- name: parked_chunks
-- What is parked, with its document and the reason.
select p.chunk_id as chunk, c.content_id as id, c.text, p.error, p.since
from backstay.embed_pending p join backstay.chunk c on c.tenant_id = p.tenant_id and c.id = p.chunk_id
where p.tenant_id = %(tenant)s::uuid and p.space_id = %(space)s::bigint and p.error is not null
  and (%(after)s::uuid is null or p.chunk_id > %(after)s::uuid)
order by p.chunk_id limit %(limit)s::int;

-- name: backlog
-- What waits and what is parked of all tenants, and for how long the oldest has waited.
select count(*) filter (where error is null) as waiting, count(*) filter (where error is not null) as parked,
       coalesce(extract(epoch from %(now)s::timestamptz - min(since) filter (where error is null)), 0)::float8 as lag
from backstay.embed_pending;

-- name: count_all_vectors
-- Vectors of all tenants, counted up to `limit`.
select count(*) from (select from backstay.vec_template limit %(limit)s::int) v;

-- name: neglected
-- Spaces with chunks that have waited since before a time, that no request carries and whose embedder may be asked.
select distinct p.tenant_id as tenant, p.space_id as space, s.collection
from backstay.embed_pending p join backstay.space s on s.id = p.space_id
where p.error is null and p.since < %(before)s::timestamptz
  and (p.call_id is null or p.expires_at < %(now)s::timestamptz)
  and not exists (
      select from backstay.embed_pace e
      where e.tenant_id = p.tenant_id and e.model = s.model and e.rests_until > %(now)s::timestamptz);

-- name: space
-- A space by id.
select id, model, dimensions, indexed_at, index_kind as index, index_lists as lists
from backstay.space where id = %(id)s::bigint;

-- name: create_space_table
-- The table of a space, once its dimensions are known.
select backstay.create_space_table(%(space)s::bigint, %(dimensions)s::int);

-- name: coverage
-- How much of a collection there is, and how much of it waits.
select (select count(*) from backstay.content d
        where d.tenant_id = %(tenant)s::uuid and d.collection = %(collection)s::text) as documents,
       (select count(*) from backstay.chunk c
        where c.tenant_id = %(tenant)s::uuid and c.collection = %(collection)s::text) as chunks,
       count(*) filter (where p.error is null) as pending,
       count(*) filter (where p.error is not null) as parked,
       coalesce(extract(epoch from %(now)s::timestamptz - min(p.since) filter (where p.error is null)), 0)::float8 as lag
from backstay.embed_pending p
where p.tenant_id = %(tenant)s::uuid and p.space_id = %(space)s::bigint;
