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
