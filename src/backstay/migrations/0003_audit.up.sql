-- phase: expand

-- Evidence: written in the business transaction, never changed afterwards. `xid` lets a sealer read below the
-- snapshot horizon, so that an entry which commits late is not passed over.
create table backstay.audit_entry (
    tenant_id uuid not null,
    id        uuid not null,
    xid       xid8 not null default pg_current_xact_id(),
    at        timestamptz not null,
    actor_id  uuid not null,
    actor     text not null,
    action    text not null,
    resource  text not null,
    outcome   text not null,
    run_id    uuid,
    call_id   uuid,
    metadata  jsonb not null,
    payload_hash bytea,
    primary key (tenant_id, id)
);
create index audit_entry_call on backstay.audit_entry (tenant_id, call_id) where call_id is not null;
create index audit_entry_run on backstay.audit_entry (tenant_id, run_id) where run_id is not null;
create index audit_entry_action on backstay.audit_entry (tenant_id, action, id);
select backstay.fence('audit_entry');
revoke update, delete on backstay.audit_entry from backstay_app, backstay_system;

-- The key of one subject's payloads, wrapped by the master key: destroying it erases the subject.
create table backstay.audit_key (
    tenant_id  uuid not null,
    id         uuid not null,
    subject    text not null,
    wrapped    bytea,
    created_at timestamptz not null,
    erased_at  timestamptz,
    primary key (tenant_id, id),
    unique (tenant_id, subject)
);
select backstay.fence('audit_key');
revoke update, delete on backstay.audit_key from backstay_app;
revoke delete on backstay.audit_key from backstay_system;

create table backstay.audit_payload (
    tenant_id  uuid not null,
    entry_id   uuid not null,
    key_id     uuid not null,
    salt       bytea not null,
    ciphertext bytea not null,
    primary key (tenant_id, entry_id)
);
select backstay.fence('audit_payload');
revoke update, delete on backstay.audit_payload from backstay_app, backstay_system;

-- Privileges can be granted again; a trigger also stops the owner.
create function backstay.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'backstay.% is append-only', tg_table_name using errcode = 'insufficient_privilege';
end
$$;
create trigger append_only before update or delete on backstay.audit_entry
    for each row execute function backstay.refuse_change();
create trigger append_only before update or delete on backstay.audit_payload
    for each row execute function backstay.refuse_change();
create trigger no_truncate before truncate on backstay.audit_entry
    for each statement execute function backstay.refuse_change();
create trigger no_truncate before truncate on backstay.audit_payload
    for each statement execute function backstay.refuse_change();
