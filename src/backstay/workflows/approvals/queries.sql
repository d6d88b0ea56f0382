-- name: ask
-- A new request, which waits for a decision.
insert into backstay.approval (tenant_id, id, run_id, seq, workflow, title, request, about, role, permission, fallback,
                               state, asked_at, due_at, entry_id)
values (%(tenant_id)s::uuid, %(id)s::uuid, %(run)s::uuid, %(seq)s::integer, %(workflow)s::text, %(title)s::text,
        %(request)s::jsonb, %(about)s::jsonb, %(role)s::text, %(permission)s::text, %(fallback)s::text,
        'pending', %(now)s::timestamptz, %(due_at)s::timestamptz, %(entry)s::uuid);

-- name: find_approval
-- One approval.
select id, run_id as run, seq, workflow, title, request, about, role, permission, fallback, state, asked_at, due_at,
       entry_id as entry, decided_at, decider, reason, edited
from backstay.approval where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid;

-- name: inbox
-- Approvals of a tenant, newest first, after a key, filtered.
select id, run_id as run, seq, workflow, title, request, about, role, permission, fallback, state, asked_at, due_at,
       entry_id as entry, decided_at, decider, reason, edited
from backstay.approval
where tenant_id = %(tenant_id)s::uuid and id < %(after)s::uuid
  and (%(state)s::text is null or state = %(state)s::text)
  and (%(run)s::uuid is null or run_id = %(run)s::uuid)
  and (%(workflow)s::text is null or workflow = %(workflow)s::text)
  and (%(role)s::text is null or role = %(role)s::text)
order by id desc limit %(limit)s::bigint;

-- name: decide
-- The one decision. No row when there was one before, or the time for it has passed.
update backstay.approval
set state = %(state)s::text, decided_at = %(now)s::timestamptz, decider_id = %(decider_id)s::uuid,
    decider = %(decider)s::text, reason = %(reason)s::text, edited = %(edited)s::jsonb
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and state = 'pending'
  and (due_at is null or due_at > %(now)s::timestamptz);

-- name: expire
-- The approval that a step waits for too long. No row when it was decided meanwhile.
update backstay.approval set state = 'expired', decided_at = %(now)s::timestamptz
where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid and seq = %(seq)s::integer and state = 'pending'
returning id, run_id as run, seq, workflow, title, request, about, role, permission, fallback, state, asked_at, due_at,
          entry_id as entry, decided_at, decider, reason, edited;

-- name: withdraw
-- What a run that has ended does not need to know any more.
update backstay.approval set state = 'withdrawn', decided_at = %(now)s::timestamptz
where tenant_id = %(tenant_id)s::uuid and run_id = %(run)s::uuid and state = 'pending'
returning id;
