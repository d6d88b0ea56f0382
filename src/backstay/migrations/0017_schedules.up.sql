-- phase: expand
-- Schedules: a job that is enqueued at the times of a cron expression, each time once.

create table backstay.schedule (
    tenant_id  uuid        not null,
    name       text        not null,
    job        text        not null,
    input      jsonb       not null,
    cron       text        not null,
    timezone   text        not null,
    queue      text        not null,
    remote     boolean     not null,
    priority   smallint    not null default 0,
    missed     text        not null check (missed in ('once', 'skip')),
    overlap    boolean     not null,
    paused     boolean     not null default false,
    next_at    timestamptz,
    last_at    timestamptz,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (tenant_id, name)
);
comment on column backstay.schedule.next_at is 'Null when the expression names no further time.';
create index schedule_due on backstay.schedule (next_at) where next_at is not null and not paused;
select backstay.fence('schedule');

-- The key is what makes a firing happen once, whichever workers see that it is due. It stays when the schedule goes, so
-- that one which is deleted and made again does not fire a second time for the same minute.
create table backstay.schedule_fire (
    tenant_id uuid        not null,
    schedule  text        not null,
    at        timestamptz not null,
    job_id    uuid,
    fired_at  timestamptz not null,
    primary key (tenant_id, schedule, at)
);
create index schedule_fire_age on backstay.schedule_fire (fired_at);
select backstay.fence('schedule_fire');
