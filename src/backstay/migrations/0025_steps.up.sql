-- phase: expand
-- Steps of many runs in one statement.

-- Records what runs have done. A row whose run another claim has, or whose run is locked at the moment, is passed over,
-- and its `item` returned; so is one whose step has ended already. Of a run it writes all rows or none.
-- A function, because its plan must not depend on how full the tables were when it was made.
create function backstay.record_steps(given json) returns setof integer
language plpgsql set enable_seqscan = off as $$
begin
    return query
    with row as materialized (
        select * from json_to_recordset(given) as r(
            item integer, tenant_id uuid, run_id uuid, claim bigint, seq integer, kind text, name text, args_hash text,
            state text, output json, error text, failures integer, started_at timestamptz, finished_at timestamptz)
    ), held as materialized (
        select i.item
        from (select distinct r.item, r.tenant_id, r.run_id, r.claim from row r) i
        cross join lateral (
            select from backstay.run
            where tenant_id = i.tenant_id and id = i.run_id and fence = i.claim and state = 'running'
            for no key update skip locked) locked
    ), written as (
        insert into backstay.step (tenant_id, run_id, seq, kind, name, args_hash, state, output, error, attempt,
                                   failures, fence, started_at, finished_at)
        select r.tenant_id, r.run_id, r.seq, r.kind, r.name, decode(r.args_hash, 'hex'), r.state, r.output::jsonb,
               r.error, 1, r.failures, r.claim, r.started_at, r.finished_at
        from row r join held h on h.item = r.item
        on conflict (tenant_id, run_id, seq) do update
        set state = excluded.state, output = excluded.output, fence = excluded.fence,
            failures = step.failures + excluded.failures, finished_at = excluded.finished_at,
            -- without an end and without a failure it is an intent
            attempt = step.attempt + (excluded.state = 'started' and excluded.failures = 0)::integer,
            error = case when excluded.state = 'started' and excluded.failures = 0 then step.error
                         else excluded.error end,
            started_at = case when excluded.state = 'started' and excluded.failures = 0 then excluded.started_at
                              else step.started_at end
            where step.state = 'started'
        returning run_id, seq
    )
    select distinct r.item from row r
    where not exists (select from written w where w.run_id = r.run_id and w.seq = r.seq);
end
$$;
revoke execute on function backstay.record_steps(json) from public;
grant execute on function backstay.record_steps(json) to backstay_app, backstay_system;
