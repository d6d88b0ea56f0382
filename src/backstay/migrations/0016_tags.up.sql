-- phase: expand
-- Tags that a tenant asks of every model call.

create table backstay.required_tags (
    tenant_id  uuid not null,
    tags       text[] not null check (tags <@ array['feature', 'user']),
    changed_at timestamptz not null,
    primary key (tenant_id)
);
select backstay.fence('required_tags');
