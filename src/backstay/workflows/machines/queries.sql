-- name: register
-- Adds a version of a machine unless it stands; the fingerprint of the one that stands now.
select backstay.register_machine(%(definition)s::jsonb, %(fingerprint)s::bytea, %(now)s::timestamptz);

-- name: newest
-- The definition of a machine that was registered last, for a process without its code.
select definition from backstay.machine where name = %(name)s::text order by registered_at desc, version desc limit 1;

-- name: definition
-- One version's definition.
select definition from backstay.machine where name = %(name)s::text and version = %(version)s::text;

-- name: definitions
-- Registered versions by name and version, after a key.
select definition, registered_at from backstay.machine
where (name, version) > (%(after_name)s::text, %(after_version)s::text)
  and (%(name)s::text is null or name = %(name)s::text)
order by name, version limit %(limit)s::bigint;

-- name: add_instance
-- A new instance in its initial state; none when the machine has one with this key.
insert into backstay.machine_instance (tenant_id, id, machine, version, key, state, seq, data, created_at, entered_at,
                                       due_at, finished_at)
values (%(tenant_id)s::uuid, %(id)s::uuid, %(machine)s::text, %(version)s::text, %(key)s::text, %(state)s::text, 0,
        %(data)s::jsonb, %(now)s::timestamptz, %(now)s::timestamptz, %(due_at)s::timestamptz,
        %(finished_at)s::timestamptz)
on conflict (tenant_id, machine, key) where key is not null do nothing
returning id;

-- name: find
-- One instance, by id.
select id, machine, version, key, state, seq, data, created_at, entered_at, due_at, finished_at
from backstay.machine_instance where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid;

-- name: id_of_key
-- The instance of a machine that has the key.
select id from backstay.machine_instance
where tenant_id = %(tenant_id)s::uuid and machine = %(machine)s::text and key = %(key)s::text;

-- name: lock
-- One instance, held until the transaction ends: whoever sends to it meanwhile waits and then sees the new state.
select id, machine, version, key, state, seq, data, created_at, entered_at, due_at, finished_at
from backstay.machine_instance where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid for no key update;

-- name: move
-- The instance enters a state.
update backstay.machine_instance
set state = %(state)s::text, seq = seq + 1, entered_at = %(now)s::timestamptz, due_at = %(due_at)s::timestamptz,
    finished_at = %(finished_at)s::timestamptz
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and seq = %(seq)s::bigint
returning id, machine, version, key, state, seq, data, created_at, entered_at, due_at, finished_at;

-- name: delete_instance
-- Deletes an instance with its history; false when the tenant has none of that id. A transaction that crosses tenants is
-- fenced to this one from here on.
select backstay.delete_machine_instance(%(tenant_id)s::uuid, %(id)s::uuid) as gone
from (select set_config('backstay.tenant_id', %(tenant_id)s::uuid::text, true)) as fenced;

-- name: add_transition
-- History of the step just taken.
insert into backstay.machine_transition (tenant_id, instance_id, seq, event, from_state, to_state, at, actor_id, actor,
                                         entry_id)
values (%(tenant_id)s::uuid, %(instance_id)s::uuid, %(seq)s::bigint, %(event)s::text, %(from_state)s::text,
        %(to_state)s::text, %(at)s::timestamptz, %(actor_id)s::uuid, %(actor)s::text, %(entry_id)s::uuid);

-- name: history
-- An instance's steps, newest first, before a number.
select seq, event, from_state, to_state, at, actor_id, actor, entry_id from backstay.machine_transition
where tenant_id = %(tenant_id)s::uuid and instance_id = %(instance_id)s::uuid and seq < %(before)s::bigint
order by seq desc limit %(limit)s::bigint;

-- name: page
-- Instances of a tenant, newest first, after a key, filtered.
select id, machine, version, key, state, seq, created_at, entered_at, due_at, finished_at
from backstay.machine_instance
where tenant_id = %(tenant_id)s::uuid and id < %(after)s::uuid
  and (%(machine)s::text is null or machine = %(machine)s::text)
  and (%(state)s::text is null or state = %(state)s::text)
  and (%(key)s::text is null or key = %(key)s::text)
order by id desc limit %(limit)s::bigint;
