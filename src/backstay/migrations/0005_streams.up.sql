-- phase: expand
-- Streams: one row per stream, one row per event. The stream's row is the lock that gives events their order.

create table backstay.stream (
    tenant_id            uuid not null,
    id                   uuid not null,
    run_id               uuid,
    state                text not null default 'open' check (state in ('open', 'done', 'error', 'cancelled')),
    producer_epoch       bigint not null default 0,
    last_seq             bigint not null default 0,
    patience             interval not null,
    lease_until          timestamptz,
    cancel_requested_at  timestamptz,
    created_at           timestamptz not null,
    closed_at            timestamptz,
    expires_at           timestamptz not null,
    emptied_at           timestamptz,
    primary key (tenant_id, id),
    check ((state = 'open') = (closed_at is null))
);

comment on column backstay.stream.producer_epoch is 'Rises by one with each producer; a write under an older epoch is refused.';
comment on column backstay.stream.patience is 'How long the stream waits for a producer that went silent before it ends in error.';
comment on column backstay.stream.lease_until is 'Null before the first producer and after the end.';
comment on column backstay.stream.emptied_at is 'When the events of an expired stream were deleted.';

-- `json`, not `jsonb`: the text goes from producer to reader byte for byte (a model may write NUL, which jsonb
-- refuses), and a reader sends it on without parsing it.
create table backstay.stream_event (
    tenant_id  uuid not null,
    stream_id  uuid not null,
    seq        bigint not null check (seq > 0),
    type       text not null,
    data       json not null,
    primary key (tenant_id, stream_id, seq)
);

-- The database itself refuses a second end.
create unique index stream_event_one_end on backstay.stream_event (tenant_id, stream_id)
    where type in ('done', 'error', 'cancelled');

create index stream_orphan on backstay.stream (lease_until) where state = 'open' and lease_until is not null;
create index stream_overdue on backstay.stream (expires_at) where state = 'open';
create index stream_to_empty on backstay.stream (expires_at) where state <> 'open' and emptied_at is null;
create index stream_to_forget on backstay.stream (expires_at) where emptied_at is not null;
create index stream_run on backstay.stream (tenant_id, run_id) where run_id is not null;

select backstay.fence('stream');
select backstay.fence('stream_event');
