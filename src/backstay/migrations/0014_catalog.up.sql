-- phase: expand
-- The gateway's configuration as data: routes, accounts at providers with their sealed secrets, prices.

-- Counts the changes of a tenant's catalogue: processes compare it with what they have in memory.
create table backstay.catalog_revision (
    tenant_id  uuid not null,
    revision   bigint not null,
    changed_at timestamptz not null,
    primary key (tenant_id)
);
select backstay.fence('catalog_revision');

-- `definition` is the route as it was given, without its name and without defaults.
create table backstay.route (
    tenant_id  uuid not null,
    name       text not null,
    definition jsonb not null,
    revision   bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant_id, name)
);
select backstay.fence('route');

create table backstay.provider_account (
    tenant_id  uuid not null,
    name       text not null,
    kind       text not null,
    base_url   text,
    options    jsonb not null,
    revision   bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant_id, name)
);
select backstay.fence('provider_account');

-- `sealed` opens only for its tenant, account and id. After `ends_at` it is used no more.
create table backstay.provider_secret (
    tenant_id uuid not null,
    account   text not null,
    id        uuid not null,
    sealed    bytea not null,
    last4     text not null check (length(last4) <= 4),
    set_at    timestamptz not null,
    ends_at   timestamptz,
    primary key (tenant_id, account, id),
    foreign key (tenant_id, account) references backstay.provider_account (tenant_id, name) on delete cascade
);
select backstay.fence('provider_secret');

-- USD per million tokens; null: as the kind of token that it is a kind of.
create table backstay.price_override (
    tenant_id    uuid not null,
    id           uuid not null,
    pattern      text not null,
    input        numeric not null check (input >= 0),
    output       numeric not null check (output >= 0),
    cached       numeric check (cached >= 0),
    written      numeric check (written >= 0),
    written_hour numeric check (written_hour >= 0),
    input_audio  numeric check (input_audio >= 0),
    output_audio numeric check (output_audio >= 0),
    starts_at    timestamptz not null,
    ends_at      timestamptz check (ends_at > starts_at),
    created_at   timestamptz not null,
    primary key (tenant_id, id),
    unique (tenant_id, pattern, starts_at)
);
select backstay.fence('price_override');
