-- phase: expand
-- What built-in jobs leave: an outcome, and a file in pieces.

create table backstay.job_result (
    tenant_id  uuid        not null,
    job_id     uuid        not null,
    name       text        not null,
    created_at timestamptz not null,
    result     jsonb       not null,
    file_name  text,                     -- null: no file
    media_type text,
    bytes      bigint,
    permission text,                     -- what a reader of the file must be permitted
    primary key (tenant_id, job_id),
    check ((file_name is null) = (media_type is null)),
    check ((file_name is null) = (bytes is null)),
    check ((file_name is null) = (permission is null))
);
create index job_result_age on backstay.job_result (tenant_id, created_at);
select backstay.fence('job_result');

-- A file is written before its result, in the same transaction.
create table backstay.job_result_part (
    tenant_id uuid    not null,
    job_id    uuid    not null,
    seq       integer not null,
    body      bytea   not null,
    primary key (tenant_id, job_id, seq),
    foreign key (tenant_id, job_id) references backstay.job_result (tenant_id, job_id)
        on delete cascade deferrable initially deferred
);
select backstay.fence('job_result_part');
