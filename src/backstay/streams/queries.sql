-- name: add
-- A new stream. The same id again changes nothing.
insert into backstay.stream (tenant_id, id, run_id, patience, created_at, expires_at)
values (%(tenant)s::uuid, %(id)s::uuid, %(run)s::uuid, %(patience)s::interval, %(now)s::timestamptz, %(expires_at)s::timestamptz)
on conflict (tenant_id, id) do nothing;

-- name: get
-- One stream as it stands.
select tenant_id as tenant, id, run_id as run, state, producer_epoch, last_seq, patience, lease_until,
       cancel_requested_at, created_at, closed_at, expires_at
from backstay.stream
where tenant_id = %(tenant)s::uuid and id = %(id)s::uuid;

-- name: take
-- Makes the caller the stream's producer: the epoch rises, which fences every older producer.
update backstay.stream
set producer_epoch = producer_epoch + 1, lease_until = %(now)s::timestamptz + patience
where tenant_id = %(tenant)s::uuid and id = %(id)s::uuid and state = 'open' and expires_at > %(now)s::timestamptz
returning last_seq, producer_epoch as epoch, cancel_requested_at is not null as cancel_requested;

-- name: append
-- Appends events under the stream's row lock, renews the lease, and ends the stream when `ends` names how.
-- No row comes back when the stream has ended, when `epoch` is not the producer's, or when `expected` (the last
-- event the producer knows of) does not match. `epoch` and `expected` are null for whoever needs neither check;
-- `replaces` raises the epoch, so that the producer does not take what another wrote in its place for its own.
with stream as (
    update backstay.stream
    set last_seq = last_seq + cardinality(%(types)s::text[]),
        producer_epoch = producer_epoch + %(replaces)s::boolean::int,
        state = coalesce(%(ends)s::text, state),
        closed_at = case when %(ends)s::text is null then null else %(now)s::timestamptz end,
        lease_until = case when %(ends)s::text is null then %(now)s::timestamptz + patience end
    where tenant_id = %(tenant)s::uuid and id = %(id)s::uuid and state = 'open'
      and producer_epoch = coalesce(%(epoch)s::bigint, producer_epoch)
      and last_seq = coalesce(%(expected)s::bigint, last_seq)
    returning last_seq, producer_epoch, cancel_requested_at
), written as (
    insert into backstay.stream_event (tenant_id, stream_id, seq, type, data)
    select %(tenant)s::uuid, %(id)s::uuid, stream.last_seq - cardinality(%(types)s::text[]) + event.place,
           event.type, event.data::json
    from stream, unnest(%(types)s::text[], %(data)s::text[]) with ordinality as event (type, data, place)
)
select last_seq, producer_epoch as epoch, cancel_requested_at is not null as cancel_requested from stream;

-- name: page
-- The next events of a stream, at most `limit` and, after the first, at most `bytes` of data.
select seq, type, data
from (
    select seq, type, data, sum(octet_length(data)) over (order by seq) as bytes
    from (
        select seq, type, data::text as data
        from backstay.stream_event
        where tenant_id = %(tenant)s::uuid and stream_id = %(id)s::uuid and seq > %(after)s::bigint
        order by seq
        limit %(limit)s::int
    ) as next
) as counted
where bytes - octet_length(data) < %(bytes)s::bigint
order by seq;

-- name: newest
-- The newest event of a type.
select seq, type, data::text as data from backstay.stream_event
where tenant_id = %(tenant)s::uuid and stream_id = %(id)s::uuid and type = %(type)s::text
order by seq desc limit 1;

-- name: request_cancel
-- Notes that somebody wants the stream to stop; the first request's time stands.
update backstay.stream
set cancel_requested_at = coalesce(cancel_requested_at, %(now)s::timestamptz)
where tenant_id = %(tenant)s::uuid and id = %(id)s::uuid and state = 'open';

-- name: orphans
-- Open streams whose producer's lease is over or whose time is up, locked; rows another reaper holds are passed over.
select tenant_id as tenant, id, cancel_requested_at is not null as cancel_requested,
       expires_at <= %(now)s::timestamptz as expired
from backstay.stream
where state = 'open' and (lease_until < %(now)s::timestamptz or expires_at <= %(now)s::timestamptz)
limit %(limit)s::int
for update skip locked;

-- name: empty
-- Deletes the events of expired streams; the stream's row stays, so that its readers learn that it expired.
with expired as (
    select tenant_id, id from backstay.stream
    where state <> 'open' and emptied_at is null and expires_at <= %(now)s::timestamptz
    order by expires_at
    limit %(limit)s::int
    for update skip locked
), emptied as (
    delete from backstay.stream_event using expired
    where stream_event.tenant_id = expired.tenant_id and stream_event.stream_id = expired.id
)
update backstay.stream set emptied_at = %(now)s::timestamptz
from expired
where stream.tenant_id = expired.tenant_id and stream.id = expired.id;

-- name: forget
-- Deletes the rows of streams that expired before a moment and have no events left.
delete from backstay.stream
where (tenant_id, id) in (
    select tenant_id, id from backstay.stream
    where emptied_at is not null and expires_at < %(before)s::timestamptz
    order by expires_at
    limit %(limit)s::int
    for update skip locked);
