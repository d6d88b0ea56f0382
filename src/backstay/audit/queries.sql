-- name: add_entries
-- Entries with their encrypted payloads, as one JSON parameter: adapting arrays value by value costs more than the
-- statement. Bytes come as base64.
with given as (
    select * from json_to_recordset(%(entries)s::json) as given (
        tenant_id uuid, id uuid, at timestamptz, actor_id uuid, actor text, action text, resource text, outcome text,
        run_id uuid, call_id uuid, metadata jsonb, payload_hash text, key_id uuid, salt text, ciphertext text)),
payload as (
    insert into backstay.audit_payload (tenant_id, entry_id, key_id, salt, ciphertext)
    select tenant_id, id, key_id, decode(salt, 'base64'), decode(ciphertext, 'base64')
    from given where ciphertext is not null)
insert into backstay.audit_entry
    (tenant_id, id, at, actor_id, actor, action, resource, outcome, run_id, call_id, metadata, payload_hash)
select tenant_id, id, at, actor_id, actor, action, resource, outcome, run_id, call_id, metadata,
       decode(payload_hash, 'base64')
from given;

-- name: add_keys
-- Keys of subjects seen for the first time; one that stands is left as it is.
insert into backstay.audit_key (tenant_id, id, subject, wrapped, created_at)
select tenant_id, id, subject, wrapped, %(now)s
from unnest(%(tenant_ids)s::uuid[], %(ids)s::uuid[], %(subjects)s::text[], %(wrapped)s::bytea[])
    as fresh (tenant_id, id, subject, wrapped)
order by tenant_id, subject
on conflict (tenant_id, subject) do nothing;

-- name: keys
-- The keys of these subjects.
select k.tenant_id, k.id, k.subject, k.wrapped from backstay.audit_key k
join unnest(%(tenant_ids)s::uuid[], %(subjects)s::text[]) as wanted (tenant_id, subject)
  on k.tenant_id = wanted.tenant_id and k.subject = wanted.subject;

-- name: entries
-- A page of entries, newest first.
select id, at, actor_id, actor, action, resource, outcome, run_id, call_id, metadata,
       payload_hash is not null as has_payload
from backstay.audit_entry
where tenant_id = %(tenant_id)s
  and (%(after)s::uuid is null or id < %(after)s::uuid)
  and (%(action)s::text is null or action = %(action)s::text)
  and (%(resource)s::text is null or resource = %(resource)s::text)
  and (%(run_id)s::uuid is null or run_id = %(run_id)s::uuid)
  and (%(call_id)s::uuid is null or call_id = %(call_id)s::uuid)
order by id desc limit %(limit)s;

-- name: payload
-- One entry's payload and the key it is under.
select p.salt, p.ciphertext, k.subject, k.wrapped
from backstay.audit_payload p
join backstay.audit_key k on k.tenant_id = p.tenant_id and k.id = p.key_id
where p.tenant_id = %(tenant_id)s and p.entry_id = %(entry_id)s;

-- name: unmatched_calls
-- Model calls whose start is recorded and whose end is not.
select s.call_id, s.at, s.actor, s.resource
from backstay.audit_entry s
where s.tenant_id = %(tenant_id)s and s.action = 'model.call.started' and s.call_id is not null
  and not exists (
    select from backstay.audit_entry f
    where f.tenant_id = s.tenant_id and f.call_id = s.call_id and f.action <> 'model.call.started'
      and f.action like 'model.call.%%')
order by s.id limit %(limit)s;

-- name: span
-- Every entry of a span of time, oldest first.
select id, at, actor_id, actor, action, resource, outcome, run_id, call_id, metadata,
       payload_hash is not null as has_payload
from backstay.audit_entry
where tenant_id = %(tenant_id)s and at >= %(since)s::timestamptz and at < %(until)s::timestamptz
order by at, id;
