-- phase: expand

-- What happened, committed with what it happened to. A relay reads rows whose `xid` is below the snapshot horizon:
-- a lower id that commits late is then not passed over.
create table backstay.outbox (
    tenant_id uuid not null,
    id        uuid not null,
    xid       xid8 not null default pg_current_xact_id(),
    at        timestamptz not null,
    type      text not null,
    payload   jsonb not null,
    primary key (tenant_id, id, at)
) partition by range (at);
create table backstay.outbox_default partition of backstay.outbox default;
create index outbox_order on backstay.outbox (xid, id);
select backstay.fence('outbox');
select backstay.fence('outbox_default');
