-- name: declare
-- Sets what fills a field; no row when it stands so already.
insert into backstay.enrichment as e (tenant_id, collection, field, model, prompt, max_tokens, revision, created_at)
values (%(tenant)s::uuid, %(collection)s::text, %(field)s::text, %(model)s::text, %(prompt)s::text,
        %(max_tokens)s::int, %(revision)s::bytea, %(now)s::timestamptz)
on conflict (tenant_id, collection, field) do update
set model = excluded.model, prompt = excluded.prompt, max_tokens = excluded.max_tokens, revision = excluded.revision
where e.revision <> excluded.revision
returning field;

-- name: remove
-- Ends the filling of a field; what was filled stays in the documents.
delete from backstay.enrichment
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and field = %(field)s::text;

-- name: enrichments
-- What fills the fields of a collection.
select field, model, prompt, max_tokens from backstay.enrichment
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text order by field;

-- name: standings
-- What fills the fields of a collection, how far that is, and what it has cost.
select e.field, e.model, e.prompt, e.max_tokens,
       count(*) filter (where d.state = 'waiting') as waiting, count(*) filter (where d.state = 'done') as done,
       count(*) filter (where d.state = 'failed') as failed, coalesce(sum(d.cost), 0) as cost
from backstay.enrichment e
left join backstay.enriched d on d.tenant_id = e.tenant_id and d.collection = e.collection and d.field = e.field
where e.tenant_id = %(tenant)s::uuid and e.collection = %(collection)s::text
group by e.field, e.model, e.prompt, e.max_tokens order by e.field;

-- name: lock_documents
-- Locks documents that stand: whether a field is filled does not change until the transaction has ended.
select id from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and id = any(%(ids)s::text[])
order by id for no key update;

-- name: enriched
-- What was made, or is to be made, of these documents.
select content_id, field, source, state, value from backstay.enriched
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and content_id = any(%(ids)s::text[]);

-- name: want
-- Has fields filled, instead of whatever was made of them.
insert into backstay.enriched as d (tenant_id, collection, content_id, field, source, state, since)
select %(tenant)s::uuid, %(collection)s::text, g.id, g.field, g.source, 'waiting', %(now)s::timestamptz
from unnest(%(ids)s::text[], %(fields)s::text[], %(sources)s::bytea[]) as g (id, field, source)
on conflict (tenant_id, collection, content_id, field) do update
set source = excluded.source, state = 'waiting', value = null, error = null, since = excluded.since, taken_by = null;

-- name: take
-- What waits of a document and no other job has taken, or one that is lost.
update backstay.enriched set taken_by = %(job)s::uuid, taken_at = %(now)s::timestamptz
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and content_id = %(id)s::text
  and state = 'waiting'
  and (taken_by is null or taken_by = %(job)s::uuid or taken_at < %(lost)s::timestamptz)
returning field, source;

-- name: forget
-- These fields hold what the caller wrote.
delete from backstay.enriched d using unnest(%(ids)s::text[], %(fields)s::text[]) as g (id, field)
where d.tenant_id = %(tenant)s::uuid and d.collection = %(collection)s::text
  and d.content_id = g.id and d.field = g.field;

-- name: answered
-- Keeps an answer, if it is to what is still asked.
update backstay.enriched
set value = %(value)s::text, error = %(error)s::text, cost = coalesce(cost, 0) + %(cost)s::numeric,
    state = case when %(error)s::text is null then 'done' else 'failed' end
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and content_id = %(id)s::text
  and field = %(field)s::text and source = %(source)s::bytea and state = 'waiting';

-- name: paid
-- Counts what an answer has cost that came too late.
update backstay.enriched set cost = coalesce(cost, 0) + %(cost)s::numeric
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and content_id = %(id)s::text
  and field = %(field)s::text;

-- name: failed
-- Documents whose field could not be filled, and why.
select content_id as id, error, since from backstay.enriched
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text and field = %(field)s::text
  and state = 'failed' and (%(after)s::text is null or content_id > %(after)s::text)
order by content_id limit %(limit)s::int;

-- name: again
-- Has up to so many failed ones tried again. Answers with their documents.
update backstay.enriched d set state = 'waiting', error = null, since = %(now)s::timestamptz, taken_by = null
where (d.tenant_id, d.collection, d.content_id, d.field) in (
    select f.tenant_id, f.collection, f.content_id, f.field from backstay.enriched f
    where f.tenant_id = %(tenant)s::uuid and f.collection = %(collection)s::text and f.field = %(field)s::text
      and f.state = 'failed' order by f.content_id limit %(limit)s::int)
returning d.content_id;
