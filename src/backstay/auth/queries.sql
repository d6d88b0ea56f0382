-- name: add_tenant
-- Returns nothing when the slug is taken.
insert into backstay.tenant (id, slug, name, created_at)
values (%(id)s, %(slug)s, %(name)s, %(now)s)
on conflict (slug) do nothing
returning id, slug, name, created_at;

-- name: tenant_by_slug
select id, slug, name, created_at from backstay.tenant where slug = %(slug)s;

-- name: tenants
-- Every tenant, oldest first.
select id, slug, name, created_at from backstay.tenant order by created_at, id;

-- name: add_principal
-- Returns nothing when the name is taken in the tenant.
insert into backstay.principal (tenant_id, id, name, role, created_at)
values (%(tenant_id)s, %(id)s, %(name)s, %(role)s, %(now)s)
on conflict (tenant_id, name) do nothing
returning id;

-- name: principal_by_name
select id, role from backstay.principal where tenant_id = %(tenant_id)s and name = %(name)s;

-- name: add_key
-- The secret itself is never stored. The same secret again leaves the row that stands.
insert into backstay.api_key
    (tenant_id, id, principal_id, name, prefix, digest, scopes, feature, created_at, expires_at)
values (%(tenant_id)s, %(id)s, %(principal_id)s, %(name)s, %(prefix)s, %(digest)s, %(scopes)s::text[],
        %(feature)s, %(now)s, %(expires_at)s)
on conflict (digest) do nothing;

-- name: credential
-- Who a key's digest belongs to; revoked keys and disabled principals are not found.
select k.tenant_id, k.id as key_id, k.principal_id, p.name as principal, p.role, k.scopes, k.feature,
       k.expires_at, k.last_used_at
from backstay.api_key k
join backstay.principal p on p.tenant_id = k.tenant_id and p.id = k.principal_id
where k.digest = %(digest)s and k.revoked_at is null and p.disabled_at is null;

-- name: touch_key
-- Remembers the last use, to the minute; never waits for a transaction that is changing the key.
update backstay.api_key set last_used_at = %(now)s where (tenant_id, id) in (
    select tenant_id, id from backstay.api_key
    where tenant_id = %(tenant_id)s and id = %(id)s
    for update skip locked);

-- name: keys
-- A page of the tenant's keys, newest first.
select k.id, k.principal_id, p.name as principal, p.role, k.name, k.prefix, k.scopes, k.feature, k.created_at,
       k.expires_at, k.revoked_at, k.last_used_at
from backstay.api_key k
join backstay.principal p on p.tenant_id = k.tenant_id and p.id = k.principal_id
where k.tenant_id = %(tenant_id)s and (%(after)s::uuid is null or k.id < %(after)s::uuid)
order by k.id desc limit %(limit)s;

-- name: revoke_key
-- Returns nothing when there is no such key; revoking twice keeps the first time.
update backstay.api_key set revoked_at = coalesce(revoked_at, %(now)s)
where tenant_id = %(tenant_id)s and id = %(id)s
returning id;
