-- phase: expand
-- Answers of models that are given again to requests that mean the same.

-- `rest` is a keyed digest of the request without the words of its last user turn, with the embedder and the number of
-- dimensions of `e`. So the rows in question are those of one tenant and one digest, at most a thousand, all with vectors
-- that can be compared. They are compared one by one, and there is no index on `e`: it would need one number of
-- dimensions for all, would be approximate, and would search first and look at tenant and digest afterwards.
-- Unlogged: a cache may be empty after a crash.
create unlogged table backstay.cached_answer (
    tenant_id  uuid not null,
    rest       bytea not null,
    key        bytea not null,
    e          public.halfvec not null,
    answer     bytea not null,
    kept_at    timestamptz not null,
    expires_at timestamptz not null,
    primary key (tenant_id, rest, key)
) with (autovacuum_vacuum_scale_factor = 0.05);
comment on column backstay.cached_answer.key is 'Keyed digest of the whole request.';
comment on column backstay.cached_answer.e is 'The words of the last user turn, as a vector of length 1.';
comment on column backstay.cached_answer.answer is 'Sealed; tenant and key are its context.';
-- Vectors out of line would make the comparison several times slower; an answer is read for a hit only, and what is
-- sealed cannot be compressed.
alter table backstay.cached_answer alter column e set storage main;
alter table backstay.cached_answer alter column answer set storage external;
create index cached_answer_expires on backstay.cached_answer (expires_at);
select backstay.fence('cached_answer');
