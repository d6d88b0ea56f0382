-- name: try_lock_key
-- One request at a time may use an idempotency key; the lock ends with the transaction.
select pg_try_advisory_xact_lock(hashtextextended(%(tenant_id)s::text || ' ' || %(key)s, 0));

-- name: standing_answer
-- What an earlier request with this key committed.
select body_hash, status, answer from backstay.idempotency
where tenant_id = %(tenant_id)s and key = %(key)s and expires_at > %(now)s;

-- name: keep_answer
-- Commits with the effect it answers for; an expired row of the same key makes room.
insert into backstay.idempotency (tenant_id, key, body_hash, status, answer, expires_at)
values (%(tenant_id)s, %(key)s, %(body_hash)s, %(status)s, %(answer)s, %(expires_at)s)
on conflict (tenant_id, key) do update
set body_hash = excluded.body_hash, status = excluded.status, answer = excluded.answer,
    expires_at = excluded.expires_at;

-- name: prune_answers
-- Expired answers, a batch at a time.
delete from backstay.idempotency where (tenant_id, key) in (
    select tenant_id, key from backstay.idempotency where expires_at <= %(now)s limit %(limit)s);

-- name: cached
-- What is cached under a key, unless its time has passed.
select value, expires_at from backstay.cache
where tenant_id = %(tenant_id)s and key = %(key)s and expires_at > %(now)s;

-- name: keep_cached
-- Sets a key; what stood there makes room.
insert into backstay.cache (tenant_id, key, value, expires_at)
values (%(tenant_id)s, %(key)s, %(value)s, %(expires_at)s)
on conflict (tenant_id, key) do update set value = excluded.value, expires_at = excluded.expires_at;

-- name: drop_cached
-- Forgets a key.
delete from backstay.cache where tenant_id = %(tenant_id)s and key = %(key)s;

-- name: count_cached
-- Adds to a count and returns it; one whose time has passed begins anew. No row: something else stands there, or the
-- count would not be exact in Redis (2^53).
insert into backstay.cache as c (tenant_id, key, value, expires_at)
values (%(tenant_id)s, %(key)s, convert_to(%(by)s::bigint::text, 'UTF8'), %(expires_at)s)
on conflict (tenant_id, key) do update
set value = case when c.expires_at > %(now)s
        then convert_to((encode(c.value, 'escape')::bigint + %(by)s::bigint)::text, 'UTF8')
        else excluded.value end,
    expires_at = case when c.expires_at > %(now)s then c.expires_at else excluded.expires_at end
where case
    when c.expires_at <= %(now)s then true
    when encode(c.value, 'escape') !~ '^-?[0-9]{1,16}$' then false
    else abs(encode(c.value, 'escape')::bigint + %(by)s::bigint) <= 9007199254740991
end
returning encode(value, 'escape')::bigint;

-- name: prune_cached
-- Entries whose time has passed, a batch at a time; those that are being written are passed over.
delete from backstay.cache where (tenant_id, key) in (
    select tenant_id, key from backstay.cache where expires_at <= %(now)s limit %(limit)s for update skip locked);
