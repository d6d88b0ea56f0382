-- name: put
-- What a job has left. A later attempt's word replaces an earlier one's.
insert into backstay.job_result (tenant_id, job_id, name, created_at, result, file_name, media_type, bytes, permission)
values (%(tenant_id)s::uuid, %(job_id)s::uuid, %(name)s::text, %(now)s::timestamptz, %(result)s::jsonb,
        %(file_name)s::text, %(media_type)s::text, %(bytes)s::bigint, %(permission)s::text)
on conflict (tenant_id, job_id) do update
set created_at = excluded.created_at, result = excluded.result, file_name = excluded.file_name,
    media_type = excluded.media_type, bytes = excluded.bytes, permission = excluded.permission;

-- name: find
-- What a job has left.
select job_id, name, created_at, result, file_name, media_type, bytes, permission
from backstay.job_result where tenant_id = %(tenant_id)s::uuid and job_id = %(job_id)s::uuid;

-- name: add_part
-- The next piece of a job's file.
insert into backstay.job_result_part (tenant_id, job_id, seq, body)
values (%(tenant_id)s::uuid, %(job_id)s::uuid, %(seq)s::integer, %(body)s::bytea);

-- name: part
-- One piece of a job's file.
select body from backstay.job_result_part
where tenant_id = %(tenant_id)s::uuid and job_id = %(job_id)s::uuid and seq = %(seq)s::integer;

-- name: be_patient
-- A report may take longer than what a caller waits for.
select set_config('statement_timeout', '15min', true);

-- name: prune_results
-- What jobs left before a moment, oldest first, files and all.
with old as materialized (
    select job_id from backstay.job_result
    where tenant_id = %(tenant_id)s::uuid and created_at < %(before)s::timestamptz
    order by created_at limit %(limit)s::bigint
    for update skip locked
)
delete from backstay.job_result r using old o where r.tenant_id = %(tenant_id)s::uuid and r.job_id = o.job_id;
