-- name: emit
-- One event; it exists if and only if its transaction commits.
insert into backstay.outbox (tenant_id, id, at, type, payload)
values (%(tenant_id)s, %(id)s, %(at)s, %(type)s, %(payload)s);

-- name: emit_many
-- Several of one type.
insert into backstay.outbox (tenant_id, id, at, type, payload)
select %(tenant_id)s::uuid, id, %(at)s::timestamptz, %(type)s::text, payload
from unnest(%(ids)s::uuid[], %(payloads)s::jsonb[]) as g (id, payload);

-- name: page
-- Events of a tenant, newest first.
select id, tenant_id, at, type, payload from backstay.outbox
where tenant_id = %(tenant_id)s
  and (%(after)s::uuid is null or id < %(after)s::uuid)
  and (%(type)s::text is null or type = %(type)s::text)
order by id desc limit %(limit)s;
