-- phase: expand
-- What every room's tables need: the fence between tenants, idempotency keys, the cache.

-- Puts a tenant table behind row-level security. FORCE binds the owner as well; `backstay_system` crosses tenants by
-- policy, so that no role needs BYPASSRLS.
create function backstay.fence(target text) returns void language plpgsql as $$
begin
    execute format('alter table backstay.%I enable row level security', target);
    execute format('alter table backstay.%I force row level security', target);
    execute format(
        'create policy tenant on backstay.%I using (tenant_id = '
        '(select nullif(current_setting(''backstay.tenant_id'', true), '''')::uuid)) with check (tenant_id = '
        '(select nullif(current_setting(''backstay.tenant_id'', true), '''')::uuid))', target);
    execute format('create policy system on backstay.%I to backstay_system using (true) with check (true)', target);
    execute format('grant select, insert, update, delete on backstay.%I to backstay_app, backstay_system', target);
end
$$;
revoke execute on function backstay.fence(text) from public;

grant select on backstay.migration to backstay_app, backstay_system;

-- The answer to an unsafe request, committed with its effect; `answer` is sealed because it may hold a secret.
create table backstay.idempotency (
    tenant_id  uuid not null,
    key        text not null,
    body_hash  bytea not null,
    status     int not null,
    answer     bytea not null,
    expires_at timestamptz not null,
    primary key (tenant_id, key)
);
create index idempotency_expires on backstay.idempotency (expires_at);
select backstay.fence('idempotency');

-- Unlogged: a cache may be empty after a crash.
create unlogged table backstay.cache (
    tenant_id  uuid not null,
    key        text not null,
    value      bytea not null,
    expires_at timestamptz not null,
    primary key (tenant_id, key)
);
create index cache_expires on backstay.cache (expires_at);
select backstay.fence('cache');
