-- name: found
-- An attachment by name.
select id, name, table_name, key, tenant_column, owner, text, expression, columns, watched, embedder, format, chunk_size,
       overlap, state, trouble, attached_by, created_at
from backstay.attached where name = %(name)s::text;

-- name: found_by_id
-- An attachment by its number.
select id, name, table_name, key, tenant_column, owner, text, expression, columns, watched, embedder, format, chunk_size,
       overlap, state, trouble, attached_by, created_at
from backstay.attached where id = %(id)s::bigint;

-- name: names
-- Attachments by name.
select name from backstay.attached
where %(after)s::text is null or name > %(after)s::text order by name limit %(limit)s::int;

-- name: lock_name
-- One change of an attachment at a time.
select pg_advisory_xact_lock(hashtextextended('attached:' || %(name)s::text, 0));

-- name: put
-- An attachment, new or defined anew.
insert into backstay.attached (
    name, table_name, key, tenant_column, owner, text, expression, columns, watched, embedder, format, chunk_size,
    overlap, state, attached_by, created_at)
values (
    %(name)s::text, %(table)s::text, %(key)s::text[], %(tenant_column)s::text, %(owner)s::uuid, %(text)s::text,
    %(expression)s::text, %(columns)s::text[], %(watched)s::text[], %(embedder)s::text, %(format)s::text,
    %(chunk_size)s::int, %(overlap)s::int, 'attached', %(by)s::uuid, %(now)s::timestamptz)
on conflict (name) do update set
    table_name = excluded.table_name, key = excluded.key, tenant_column = excluded.tenant_column,
    owner = excluded.owner, text = excluded.text, expression = excluded.expression, columns = excluded.columns,
    watched = excluded.watched, embedder = excluded.embedder, format = excluded.format,
    chunk_size = excluded.chunk_size, overlap = excluded.overlap, state = 'attached', trouble = null,
    attached_by = excluded.attached_by
returning id;

-- name: taken
-- A tenant that has a collection of this name which belongs to nobody's table.
select tenant_id from backstay.collection
where name = %(name)s::text and attached_id is null and (%(owner)s::uuid is null or tenant_id = %(owner)s::uuid)
limit 1;

-- name: make_trigger
-- The function that notes changed rows.
select backstay.make_attached_trigger(
    %(id)s::bigint, %(tenant_column)s::text, %(owner)s::uuid, %(key)s::text[], %(watched)s::text[]);

-- name: drop_trigger
-- The function and the table's triggers.
select backstay.drop_attached_trigger(%(id)s::bigint);

-- name: put_state
-- What state an attachment is in, and why.
update backstay.attached set state = %(state)s::text, trouble = %(trouble)s::text
where id = %(id)s::bigint and (state, trouble) is distinct from (%(state)s::text, %(trouble)s::text);

-- name: break_off
-- An attachment that is followed is broken from now on.
update backstay.attached set state = 'broken', trouble = %(trouble)s::text
where id = %(id)s::bigint and state = 'attached';

-- name: standing
-- The attachments that are followed, or would be.
select id from backstay.attached where state in ('attached', 'broken') order by id;

-- name: condition
-- Where the table of an attachment is (its triggers know, also after it was renamed or restored), and what of it is
-- still as it was.
select n.nspname as schema, c.relname as table, c.relkind::text as kind, coalesce(g.triggers, 0)::int as triggers,
       array(select w from unnest(a.watched) w
             where not exists (select from pg_attribute t where t.attrelid = c.oid and t.attname = w and t.attnum > 0
                               and not t.attisdropped)) as missing,
       array(select format_type(t.atttypid, null) from unnest(a.key) with ordinality k (name, place)
             join pg_attribute t on t.attrelid = c.oid and t.attname = k.name and not t.attisdropped
             order by k.place) as key_types,
       (select format_type(t.atttypid, null) from pg_attribute t
        where t.attrelid = c.oid and t.attname = a.tenant_column and not t.attisdropped) as tenant_type,
       coalesce(has_schema_privilege('backstay_app', n.oid, 'usage')
                and has_table_privilege('backstay_app', c.oid, 'select'), false) as readable,
       greatest(c.reltuples, 0)::bigint as rows
from backstay.attached a
left join (
    select p.proname, min(t.tgrelid::bigint) as relid, count(*) filter (where t.tgenabled in ('O', 'A')) as triggers
    from pg_proc p join pg_trigger t on t.tgfoid = p.oid
    where p.pronamespace = 'backstay'::regnamespace group by p.proname) g on g.proname = 'attached_' || a.id
left join pg_class c on c.oid = g.relid::oid
left join pg_namespace n on n.oid = c.relnamespace
where a.id = %(id)s::bigint;

-- name: fill_all
-- Every row is to be looked at, of each tenant that may have some.
insert into backstay.attached_fill as f (tenant_id, attached_id, state, began_at)
select t.id, %(id)s::bigint, 'filling', %(now)s::timestamptz
from (select id from backstay.tenant
      union select tenant_id from backstay.attached_fill where attached_id = %(id)s::bigint) t
where %(owner)s::uuid is null or t.id = %(owner)s::uuid
on conflict (tenant_id, attached_id) do update
set state = 'filling', after = null, seen = 0, refused = 0, trouble = null, began_at = excluded.began_at,
    ended_at = null;

-- name: purge_all
-- Every document is to be deleted, of each tenant that has some.
insert into backstay.attached_fill as f (tenant_id, attached_id, state, began_at)
select c.tenant_id, %(id)s::bigint, 'purging', %(now)s::timestamptz from backstay.collection c
where c.attached_id = %(id)s::bigint
on conflict (tenant_id, attached_id) do update
set state = 'purging', after = null, began_at = excluded.began_at, ended_at = null;

-- name: drop_fills
-- Nothing is being taken over any more.
delete from backstay.attached_fill where attached_id = %(id)s::bigint;

-- name: drop_changes
-- Changes of every tenant that nobody will take over.
delete from backstay.attached_change where attached_id = %(id)s::bigint;

-- name: drop_purged
-- Attachments whose last document is gone, and what writers noted in the moment when they were detached.
with gone as (
    delete from backstay.attached a
    where a.state = 'purging' and not exists (select from backstay.attached_fill f where f.attached_id = a.id)
    returning a.id)
delete from backstay.attached_change c using gone where c.attached_id = gone.id;

-- name: take_marks
-- What says that every row is to be looked at again, taken out.
with taken as (
    delete from backstay.attached_change where tenant_id = '00000000-0000-0000-0000-000000000000'
    returning attached_id)
select distinct a.id, a.owner from taken t join backstay.attached a on a.id = t.attached_id
where a.state in ('attached', 'broken') order by a.id;

-- name: due
-- Tenants and attachments with something to do. It hops from one to the next, however many changes each has.
with recursive hop as (
    (select tenant_id, attached_id from backstay.attached_change order by tenant_id, attached_id limit 1)
    union all
    select n.tenant_id, n.attached_id from hop h cross join lateral (
        select c.tenant_id, c.attached_id from backstay.attached_change c
        where (c.tenant_id, c.attached_id) > (h.tenant_id, h.attached_id)
        order by c.tenant_id, c.attached_id limit 1) n
)
select h.tenant_id, h.attached_id from hop h join backstay.attached a on a.id = h.attached_id and a.state = 'attached'
where h.tenant_id <> '00000000-0000-0000-0000-000000000000'
union
select f.tenant_id, f.attached_id from backstay.attached_fill f
join backstay.attached a on a.id = f.attached_id and a.state in ('attached', 'purging')
where f.state <> 'current'
order by 1, 2 limit %(limit)s::int;

-- name: backlog
-- Changes that wait, over all tables, and for how long the oldest has waited.
select count(*) as waiting,
       coalesce(extract(epoch from %(now)s::timestamptz - min(since)), 0)::float8 as lag
from backstay.attached_change;

-- name: counts
-- How far an attachment is, over all tenants.
select f.tenants, f.filling, f.seen, f.refused, f.refusal, c.waiting, greatest(c.lag, 0) as lag
from (select count(*) as tenants, count(*) filter (where state <> 'current') as filling,
             coalesce(sum(seen), 0)::bigint as seen, coalesce(sum(refused), 0)::bigint as refused,
             max(trouble) as refusal
      from backstay.attached_fill where attached_id = %(id)s::bigint) f,
     (select count(*) as waiting,
             coalesce(extract(epoch from %(now)s::timestamptz - min(since)), 0)::float8 as lag
      from backstay.attached_change where attached_id = %(id)s::bigint) c;

-- name: begin_following
-- A tenant whose first row came after the table was attached.
insert into backstay.attached_fill (tenant_id, attached_id, state, began_at, ended_at)
values (%(tenant)s::uuid, %(id)s::bigint, 'current', %(now)s::timestamptz, %(now)s::timestamptz)
on conflict (tenant_id, attached_id) do nothing;

-- name: hold_fill
-- How far a tenant's rows are, kept so until the transaction has ended.
select state, after from backstay.attached_fill
where tenant_id = %(tenant)s::uuid and attached_id = %(id)s::bigint for update;

-- name: advance
-- A tenant's rows have been looked at this far.
update backstay.attached_fill
set state = %(state)s::text, after = %(after)s::jsonb, seen = seen + %(seen)s::bigint,
    ended_at = case when %(state)s::text = 'current' then %(now)s::timestamptz end
where tenant_id = %(tenant)s::uuid and attached_id = %(id)s::bigint;

-- name: refuse
-- Rows whose text could not be computed.
update backstay.attached_fill set refused = refused + %(rows)s::bigint, trouble = %(trouble)s::text
where tenant_id = %(tenant)s::uuid and attached_id = %(id)s::bigint;

-- name: end_purge
-- A tenant has no documents of the table any more.
delete from backstay.attached_fill where tenant_id = %(tenant)s::uuid and attached_id = %(id)s::bigint;

-- name: bind
-- A collection's documents are an attached table's rows from now on, or (null) no more.
update backstay.collection set attached_id = %(id)s::bigint
where tenant_id = %(tenant)s::uuid and name = %(collection)s::text and attached_id is distinct from %(id)s::bigint;

-- name: take_changes
-- The oldest changes of a tenant's rows, taken out: about as many keys as asked for.
with taken as (
    delete from backstay.attached_change
    where tenant_id = %(tenant)s::uuid and attached_id = %(id)s::bigint and id in (
        select o.id from (
            select c.id, sum(jsonb_array_length(c.keys)) over (order by c.id) - jsonb_array_length(c.keys) as before
            from (select id, keys from backstay.attached_change
                  where tenant_id = %(tenant)s::uuid and attached_id = %(id)s::bigint
                  order by id limit %(limit)s::int) c) o
        where o.before < %(limit)s::int)
    returning keys)
select distinct k.key from taken t, jsonb_array_elements(t.keys) k (key);

-- name: shadows
-- Documents of an attached table by id.
select id, body from backstay.content
where tenant_id = %(tenant)s::uuid and collection = %(collection)s::text
  and (%(after)s::text is null or id > %(after)s::text)
order by id limit %(limit)s::int;

-- name: table_oid
-- The table that a name means to whoever asks.
select to_regclass(%(table)s::text)::oid::bigint;

-- name: table
-- What kind of table it is, and what our roles may do with it. `related`: it is a partition, has some, or inherits.
select c.oid::bigint as oid, n.nspname as schema, c.relname as name, c.relkind::text as kind,
       c.relpersistence::text as persistence,
       c.relispartition or exists (select from pg_inherits i where c.oid in (i.inhrelid, i.inhparent)) as related,
       has_table_privilege(c.oid, 'trigger') as may_attach,
       has_schema_privilege('backstay_app', n.oid, 'usage') as usable,
       has_table_privilege('backstay_app', c.oid, 'select') as readable,
       current_user::text as login
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = %(oid)s::bigint::oid;

-- name: table_columns
-- Columns, their types, and whether they always have a value.
select attname::text, format_type(atttypid, null), attnotnull from pg_attribute
where attrelid = %(oid)s::bigint::oid and attnum > 0 and not attisdropped;

-- name: table_indexes
-- Columns of the whole table's indexes in order, and whether they are unique at once.
select array_agg(a.attname::text order by k.place) as columns, i.indisunique and i.indimmediate as is_unique
from pg_index i, unnest(i.indkey::int2[]) with ordinality k (number, place)
join pg_attribute a on a.attnum = k.number
where i.indrelid = %(oid)s::bigint::oid and a.attrelid = i.indrelid and i.indpred is null and i.indisvalid
  and i.indexprs is null and k.place <= i.indnkeyatts and 0 <> all(i.indkey::int2[])
group by i.indexrelid, i.indisunique, i.indimmediate;

-- name: checked
-- The constraint that the expression became: as written, its columns, whether it means the whole row or columns of the
-- system, and a function in it that is volatile. No row when it became more than that.
select pg_get_expr(k.conbin, k.conrelid) as written,
       array(select a.attname::text from pg_attribute a where a.attrelid = k.conrelid and a.attnum = any(k.conkey)) as columns,
       k.conbin::text ~ ':varattno (0|-)' as whole_row,
       (select min(p.oid::regprocedure::text)
        from regexp_matches(k.conbin::text, ':(\w*funcid|opno) (\d+)', 'g') m,
             lateral (select case when m[1] = 'opno' then (select o.oprcode::oid from pg_operator o where o.oid = m[2]::oid)
                             else m[2]::oid end as id) f
        join pg_proc p on p.oid = f.id where p.provolatile = 'v') as volatile
from pg_constraint k
where k.conrelid = to_regclass('pg_temp.backstay_check') and k.conname = 'backstay_text' and k.contype = 'c'
  and (select count(*) from pg_constraint o where o.conrelid = k.conrelid and o.contype <> 'n') = 1
  and (select count(*) from pg_attribute a where a.attrelid = k.conrelid and a.attnum > 0 and not a.attisdropped)
      = %(columns)s::int
  and not exists (select from pg_attrdef d where d.adrelid = k.conrelid);

-- name: type_name
-- A type by its number.
select format_type(%(oid)s::bigint::oid, null);
