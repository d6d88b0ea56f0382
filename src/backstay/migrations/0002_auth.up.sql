-- phase: expand

-- A tenant owns rows everywhere; its own row is read by login before any tenant is known, so it has no tenant_id.
create table backstay.tenant (
    id         uuid primary key,
    slug       text not null unique check (slug ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name       text not null,
    created_at timestamptz not null
);
grant select on backstay.tenant to backstay_app;
grant select, insert, update on backstay.tenant to backstay_system;

create table backstay.principal (
    tenant_id  uuid not null references backstay.tenant (id),
    id         uuid not null,
    name       text not null,
    role       text not null,
    created_at timestamptz not null,
    disabled_at timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, name)
);
select backstay.fence('principal');

-- The secret is stored as a keyed digest only; `prefix` is what people recognise a key by.
create table backstay.api_key (
    tenant_id    uuid not null,
    id           uuid not null,
    principal_id uuid not null,
    name         text not null,
    prefix       text not null,
    digest       bytea not null,
    scopes       text[] not null,
    feature      text,
    created_at   timestamptz not null,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    primary key (tenant_id, id),
    foreign key (tenant_id, principal_id) references backstay.principal (tenant_id, id)
);
create unique index api_key_digest on backstay.api_key (digest);
select backstay.fence('api_key');
