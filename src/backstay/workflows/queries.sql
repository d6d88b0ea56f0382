-- name: add_run
-- A new run; none when the workflow has one with this key.
insert into backstay.run (tenant_id, id, workflow, version, key, state, principal, input, parent_id, parent_seq,
                          deadline, created_at)
values (%(tenant_id)s::uuid, %(id)s::uuid, %(workflow)s::text, %(version)s::text, %(key)s::text, 'pending',
        %(principal)s::jsonb, %(input)s::jsonb, %(parent_id)s::uuid, %(parent_seq)s::integer,
        %(deadline)s::timestamptz, %(now)s::timestamptz)
on conflict (tenant_id, workflow, key) where key is not null do nothing
returning id;

-- name: run_with_key
-- The run that has the key already.
select id from backstay.run
where tenant_id = %(tenant_id)s::uuid and workflow = %(workflow)s::text and key = %(key)s::text;

-- name: be_impatient
-- A frozen worker may hold the run's row for a while; do not wait for it with a connection in hand.
select set_config('lock_timeout', %(milliseconds)s::integer::text, true);

-- name: take
-- Hands the run to the claim `fence`: from now on a worker with another number can write nothing to it.
update backstay.run
set fence = %(fence)s::bigint, state = 'running', attempt = attempt + 1,
    started_at = coalesce(started_at, %(now)s::timestamptz)
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and state in ('pending', 'running', 'waiting')
returning tenant_id, id, workflow, version, parent_id, parent_seq, deadline, cancel_reason, principal,
          coalesce(input, (select b.body from backstay.run_blob b
                           where b.tenant_id = run.tenant_id and b.run_id = run.id and b.part = 'input'))::text as input,
          fence, attempt, undoing, error, failed_step;

-- name: recorded
-- The steps of a run so far, for replay.
select seq, kind, name, args_hash, state,
       coalesce(output, (select b.body from backstay.run_blob b
                         where b.tenant_id = step.tenant_id and b.run_id = step.run_id and b.part = 'step'
                           and b.seq = step.seq))::text as output,
       error, attempt, failures, due_at
from backstay.step where tenant_id = %(tenant_id)s::uuid and run_id = %(run_id)s::uuid order by seq;

-- name: hold
-- Locks the run for a transaction step; no row when another worker has it. Should this process freeze in the middle,
-- the server ends the transaction after a while, and the lock with it.
select set_config('idle_in_transaction_session_timeout', %(milliseconds)s::integer::text, true) as held
from backstay.run
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint and state = 'running'
for no key update;

-- name: record_steps
-- Records intents, outputs and failures, each row behind its own run's fence. Returns the items that it passed over,
-- because another worker has the run, or another transaction holds it.
select item from backstay.record_steps(%(rows)s::json) as item;

-- name: keep
-- An input or output too large for the row that the same transaction has written.
insert into backstay.run_blob (tenant_id, run_id, part, seq, body)
values (%(tenant_id)s::uuid, %(run_id)s::uuid, %(part)s::text, %(seq)s::integer, %(body)s::jsonb);

-- name: finish
-- Ends a run; no row when another worker has it.
update backstay.run
set state = %(state)s::text, output = %(output)s::jsonb, error = %(error)s::text, finished_at = %(now)s::timestamptz,
    failed_step = %(failed_step)s::integer
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint and state = 'running';

-- name: find
-- One run.
select id, workflow, version, key, state,
       coalesce(input, (select b.body from backstay.run_blob b
                        where b.tenant_id = run.tenant_id and b.run_id = run.id and b.part = 'input')) as input,
       coalesce(output, (select b.body from backstay.run_blob b
                         where b.tenant_id = run.tenant_id and b.run_id = run.id and b.part = 'output')) as output,
       error, attempt, parent_id as parent, deadline, undoing, forked_from, forked_step, cancel_reason is not null as cancelling, created_at, started_at, finished_at
from backstay.run where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid;

-- name: steps
-- A run's steps as people see them.
select seq, kind, name, state,
       coalesce(output, (select b.body from backstay.run_blob b
                         where b.tenant_id = step.tenant_id and b.run_id = step.run_id and b.part = 'step'
                           and b.seq = step.seq)) as output,
       error, attempt, failures, started_at, due_at, finished_at
from backstay.step where tenant_id = %(tenant_id)s::uuid and run_id = %(run_id)s::uuid order by seq;

-- name: page
-- Runs of a tenant, newest first, after a key, filtered.
select id, workflow, version, key, state, error, attempt, parent_id as parent, deadline,
       cancel_reason is not null as cancelling, created_at, started_at, finished_at
from backstay.run
where tenant_id = %(tenant_id)s::uuid and id < %(after)s::uuid
  and (%(state)s::text is null or state = %(state)s::text)
  and (%(workflow)s::text is null or workflow = %(workflow)s::text)
  and (%(parent)s::uuid is null or parent_id = %(parent)s::uuid)
order by id desc limit %(limit)s::bigint;

-- name: open_wait
-- A step that waits. Its run's row is locked by the same transaction.
insert into backstay.step (tenant_id, run_id, seq, kind, name, args_hash, state, attempt, fence, started_at, due_at)
values (%(tenant_id)s::uuid, %(run_id)s::uuid, %(seq)s::integer, %(kind)s::text, %(name)s::text, %(args_hash)s::bytea,
        'started', 1, %(fence)s::bigint, %(now)s::timestamptz, %(due_at)s::timestamptz);

-- name: end_wait
-- What a step waited for has come: written by whoever brings it, who has no claim of the run. No row when it has ended
-- already.
update backstay.step
set state = %(state)s::text, output = %(output)s::jsonb, error = %(error)s::text, finished_at = %(now)s::timestamptz
where tenant_id = %(tenant_id)s::uuid and run_id = %(run_id)s::uuid and seq = %(seq)s::integer and state = 'started'
  and kind in ('approval', 'timer', 'signal', 'child');

-- name: park
-- The run waits, and from here on holds nothing; no row when another worker has it.
update backstay.run set state = 'waiting'
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint and state = 'running';

-- name: lock_to_cancel
-- A run's state, which stays until this commits, and its code.
select state, workflow, version from backstay.run where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid for no key update;

-- name: cancel_run
-- Ends a run that nobody executes.
update backstay.run
set state = 'cancelled', error = %(reason)s::text, cancel_reason = %(reason)s::text,
    finished_at = %(now)s::timestamptz
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and state in ('pending', 'waiting')
returning tenant_id, id, workflow, version, parent_id, parent_seq;

-- name: ask_to_stop
-- The run is to stop as soon as it can. The first to ask is named as the reason.
update backstay.run set cancel_reason = %(reason)s::text
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and cancel_reason is null;

-- name: stop_children
-- As ask_to_stop, for the unfinished children of a run that has ended.
update backstay.run set cancel_reason = %(reason)s::text
where tenant_id = %(tenant_id)s::uuid and parent_id = %(id)s::uuid and cancel_reason is null
  and state in ('pending', 'running', 'waiting')
returning id;

-- name: to_stop
-- Those of the runs given that are to stop.
select r.id, r.cancel_reason
from unnest(%(tenants)s::uuid[], %(ids)s::uuid[]) as given(tenant_id, id)
join backstay.run r on r.tenant_id = given.tenant_id and r.id = given.id
where r.cancel_reason is not null;

-- name: lock_to_mend
-- A run that gets a second chance, locked; `steps` is how far its numbers go, `open_wait` the first step that still
-- waits.
select r.id, r.workflow, r.version, r.state, r.failed_step, r.undoing is not null as undone,
       (select coalesce(max(s.seq) + 1, 0) from backstay.step s
        where s.tenant_id = r.tenant_id and s.run_id = r.id and s.seq < 1000000000) as steps,
       (select min(s.seq) from backstay.step s
        where s.tenant_id = r.tenant_id and s.run_id = r.id and s.state = 'started'
          and s.kind in ('approval', 'child')) as open_wait
from backstay.run r
where r.tenant_id = %(tenant_id)s::uuid and r.id = %(id)s::uuid
for no key update;

-- name: reset_failed
-- The step that failed the run, and those beside it, get all their attempts again.
update backstay.step set state = 'started', failures = 0, finished_at = null
where tenant_id = %(tenant_id)s::uuid and run_id = %(id)s::uuid and seq >= %(step)s::integer
  and seq < 1000000000 and state = 'failed' and kind in ('step', 'transaction');

-- name: revive_run
-- A parked run waits for a worker again. What it has begun to undo it goes on undoing.
update backstay.run
set state = 'pending', version = %(version)s::text, failed_step = null, finished_at = null, cancel_reason = null,
    error = case when undoing is null then null else error end
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid;

-- name: move_run
-- An unfinished run goes on in another version; a worker that executes it can write nothing from now on.
update backstay.run set version = %(version)s::text, fence = 0
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid;

-- name: fork_run
-- A new run with the input of another.
insert into backstay.run (tenant_id, id, workflow, version, state, principal, input, forked_from, forked_step,
                          created_at)
select tenant_id, %(fork)s::uuid, workflow, %(version)s::text, 'pending', principal, input, id, %(step)s::integer,
       %(now)s::timestamptz
from backstay.run where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid;

-- name: fork_steps
-- The finished steps below a number, for the new run.
insert into backstay.step (tenant_id, run_id, seq, kind, name, args_hash, state, output, error, attempt, failures,
                           fence, started_at, finished_at)
select tenant_id, %(fork)s::uuid, seq, kind, name, args_hash, state, output, error, attempt, failures, 0, started_at,
       finished_at
from backstay.step
where tenant_id = %(tenant_id)s::uuid and run_id = %(id)s::uuid and seq < %(step)s::integer and state <> 'started';

-- name: fork_blobs
-- What is large of the input and of the steps taken over, for the new run.
insert into backstay.run_blob (tenant_id, run_id, part, seq, body)
select tenant_id, %(fork)s::uuid, part, seq, body
from backstay.run_blob
where tenant_id = %(tenant_id)s::uuid and run_id = %(id)s::uuid
  and (part = 'input' or part = 'step' and seq < %(step)s::integer);

-- name: prune_runs
-- Runs that ended before a moment, oldest first, with all that hangs on them. One stays while its parent stands, while
-- a child of it is not through, and while a stream of it is open.
with old as materialized (
    select r.id from backstay.run r
    where r.tenant_id = %(tenant_id)s::uuid and r.state in ('completed', 'failed', 'cancelled')
      and r.finished_at < %(before)s::timestamptz
      and not exists (select from backstay.run p where p.tenant_id = r.tenant_id and p.id = r.parent_id)
      and not exists (
          select from backstay.run c where c.tenant_id = r.tenant_id and c.parent_id = r.id
            and c.state not in ('completed', 'failed', 'cancelled'))
      and not exists (
          select from backstay.stream s where s.tenant_id = r.tenant_id and s.run_id = r.id and s.state = 'open')
    order by r.finished_at limit %(limit)s::bigint
    for update of r skip locked
)
delete from backstay.run r using old o where r.tenant_id = %(tenant_id)s::uuid and r.id = o.id;

-- name: begin_undoing
-- From here on the run only undoes what it did, whatever happens; no row when another worker has it.
update backstay.run set undoing = %(state)s::text, error = %(error)s::text, failed_step = %(failed_step)s::integer
where tenant_id = %(tenant_id)s::uuid and id = %(id)s::uuid and fence = %(fence)s::bigint and state = 'running';

-- name: has_something_to_undo
-- Whether the run's code has registered a call for its failure.
select exists (
    select from backstay.step
    where tenant_id = %(tenant_id)s::uuid and run_id = %(id)s::uuid and kind = 'value' and name like 'on\_failure %%');
