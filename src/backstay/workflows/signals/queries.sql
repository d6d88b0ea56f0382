-- name: lock_run
-- The run that a signal is for. Its row stays locked, so that the run can neither end nor begin to wait meanwhile.
select workflow, version, state from backstay.run
where tenant_id = %(tenant_id)s::uuid and id = %(run)s::uuid for no key update;

-- name: signal_with_key
-- The signal that was sent with this key before.
select number, name, key, payload, sent_at, sender, taken_by from backstay.signal
where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid and key = %(key)s::text;

-- name: waiting_step
-- The first step that waits for a signal of this name.
select seq from backstay.step
where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid and kind = 'signal' and name = %(name)s::text
  and state = 'started'
order by seq limit 1;

-- name: add_signal
-- A new signal, numbered while its run is locked.
insert into backstay.signal (tenant_id, run_id, number, name, key, payload, sent_at, sender_id, sender, taken_by)
select %(tenant_id)s::uuid, %(run)s::uuid,
       (select coalesce(max(number), 0) + 1 from backstay.signal
        where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid),
       %(name)s::text, %(key)s::text, %(payload)s::jsonb, %(now)s::timestamptz, %(sender_id)s::uuid,
       %(sender)s::text, %(taken_by)s::integer
returning number, name, key, payload, sent_at, sender, taken_by;

-- name: take_signal
-- The oldest signal of this name that no step has got. The run is locked by the same transaction.
update backstay.signal set taken_by = %(seq)s::integer
where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid and number = (
    select number from backstay.signal
    where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid and name = %(name)s::text and taken_by is null
    order by number limit 1)
returning payload::text as payload;

-- name: has_run
-- Whether the tenant has the run.
select exists (select from backstay.run where tenant_id = %(tenant_id)s::uuid and id = %(run)s::uuid);

-- name: sent
-- The signals of a run, in order.
select number, name, key, payload, sent_at, sender, taken_by from backstay.signal
where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid and number > %(after)s::integer
order by number limit %(limit)s::bigint;
