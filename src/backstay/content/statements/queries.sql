-- name: hits
-- The hits of a search, best first. Where a leg runs, its statement stands in place of the empty one behind its name.
with text_leg as materialized (
    select chunk_id, content_id, score, row_number() over (order by score desc, chunk_id) as place
    from (/* text */ select null::uuid as chunk_id, null::text as content_id, null::float8 as score where false) leg
), vector_leg as materialized (
    select chunk_id, content_id, score, row_number() over (order by score desc, chunk_id) as place
    from (/* vector */ select null::uuid as chunk_id, null::text as content_id, null::float8 as score where false) leg
), fused as (
    select coalesce(t.chunk_id, v.chunk_id) as chunk_id, coalesce(t.content_id, v.content_id) as content_id,
           t.score as text_score, v.score as vector_score, t.place as text_place, v.place as vector_place,
           case when %(fused)s::boolean
                then coalesce(1 / (%(constant)s::int + t.place)::float8, 0)
                     + coalesce(1 / (%(constant)s::int + v.place)::float8, 0)
                else coalesce(t.score, v.score) end as score
    from text_leg t full join vector_leg v on v.chunk_id = t.chunk_id
), counted as (
    select f.*, row_number() over (
        partition by f.content_id order by f.score desc, f.text_place nulls last, f.vector_place) as nth
    from fused f
), best as (
    select c.*, row_number() over (order by c.score desc, c.text_place nulls last, c.vector_place) as rank
    from counted c
    where %(per_document)s::int is null or c.nth <= %(per_document)s::int
    order by rank limit %(k)s::int
)
select b.content_id as id, b.chunk_id as chunk, b.rank, b.score, b.text_score, b.vector_score, c.text
from best b join backstay.chunk c on c.tenant_id = %(tenant)s::uuid and c.id = b.chunk_id
order by b.rank;

-- name: nearest
-- The vector leg where there is an index: it is asked when more vectors pass than are looked at one by one. What it
-- gives is taken when it is enough; else, or where it was not asked, every vector is looked at.
with indexed as materialized (
    select found.chunk_id, found.content_id, found.score
    from backstay.tuned(%(statement)s::text, %(settings)s::jsonb) found
    where (/* count */ select 0) > %(exact_rows)s::bigint
)
select chunk_id, content_id, score from indexed where (select count(*) from indexed) >= %(limit)s::bigint
union all
select exact.chunk_id, exact.content_id, exact.score
from (/* exact */ select null::uuid as chunk_id, null::text as content_id, null::float8 as score where false) exact
where (select count(*) from indexed) < %(limit)s::bigint;
