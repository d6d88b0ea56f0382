-- name: nearest
-- The answer whose last user turn is nearest, if it is near enough. Six digits: what a half-precision vector can tell.
select c.key, c.answer, c.similarity
from (
    select key, answer, round((1 - (e operator(public.<=>) %(e)s::public.halfvec))::numeric, 6)::float8 as similarity
    from backstay.cached_answer
    where tenant_id = %(tenant_id)s and rest = %(rest)s and expires_at > %(now)s and kept_at >= %(since)s
) c
where c.similarity >= %(threshold)s::float8
order by c.similarity desc, c.key limit 1;

-- name: keep
-- One row for each request; the same one again replaces its answer.
insert into backstay.cached_answer (tenant_id, rest, key, e, answer, kept_at, expires_at)
values (%(tenant_id)s, %(rest)s, %(key)s, %(e)s::public.halfvec, %(answer)s, %(now)s, %(expires_at)s)
on conflict (tenant_id, rest, key) do update
set e = excluded.e, answer = excluded.answer, kept_at = excluded.kept_at, expires_at = excluded.expires_at;

-- name: trim
-- What is beyond the newest of one digest: a comparison reads all of them. In a transaction of its own: it may wait for
-- rows that others write, and must hold none then that they wait for.
delete from backstay.cached_answer
where tenant_id = %(tenant_id)s and rest = %(rest)s and (kept_at, key) < (
    select kept_at, key from backstay.cached_answer
    where tenant_id = %(tenant_id)s and rest = %(rest)s
    order by kept_at desc, key desc offset %(most)s - 1 limit 1);

-- name: sweep
-- Answers whose time has passed, a batch at a time.
delete from backstay.cached_answer where (tenant_id, rest, key) in (
    select tenant_id, rest, key from backstay.cached_answer where expires_at <= %(now)s limit %(limit)s
    for update skip locked);
