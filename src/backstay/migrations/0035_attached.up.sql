-- phase: expand
-- Attached tables: rows of the user's own tables are searched like documents. What is attached, which rows have changed,
-- how far each tenant's rows have been taken over.

-- One attachment of a table. A tenant's documents are in the collection of that name; `owner` has them all when the
-- table has no column that names the tenant.
create table backstay.attached (
    id            bigint generated always as identity primary key,
    name          text        not null unique,
    table_name    text        not null,
    key           text[]      not null,
    tenant_column text,
    owner         uuid,
    text          text        not null,
    expression    text        not null,
    columns       text[]      not null,
    watched       text[]      not null,
    embedder      text,
    format        text        not null,
    chunk_size    int         not null,
    overlap       int         not null,
    state         text        not null check (state in ('attached', 'broken', 'detached', 'purging')),
    trouble       text,
    attached_by   uuid        not null,
    created_at    timestamptz not null,
    check (num_nonnulls(tenant_column, owner) = 1)
);
comment on column backstay.attached.table_name is 'As it was called when it was attached; its triggers say where it is.';
comment on column backstay.attached.text is 'The searched text of a row, as the user wrote it.';
comment on column backstay.attached.expression is 'The same as Postgres writes it, on any search_path.';
comment on column backstay.attached.columns is 'Further columns that a hit shows and that searches can be filtered by.';
comment on column backstay.attached.watched is 'Every column that matters: of the key, the tenant, the text, and `columns`.';
comment on column backstay.attached.attached_by is 'The tenant of who attached it, which is told what becomes of it.';
grant select, insert, update, delete on backstay.attached to backstay_system;
-- Whether a tenant may have documents of its own under a name.
grant select (name, owner) on backstay.attached to backstay_app;

-- Which rows have changed: one row for each writing statement (and each further 1,000 keys), written by the table's
-- triggers in the writer's transaction. `keys` is an array of keys, each an array of values. Rows of no tenant (all
-- zeros) say that every row is to be looked at again.
create table backstay.attached_change (
    tenant_id   uuid        not null,
    attached_id bigint      not null,
    id          bigint      generated always as identity,
    keys        jsonb       not null,
    since       timestamptz not null,
    primary key (tenant_id, attached_id, id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
select backstay.fence('attached_change');

-- How far a tenant's rows have been looked at: first the table's (`filling`), then the documents, whose rows may be gone
-- (`pruning`). `after` is the last one, a row's key or a document's id.
create table backstay.attached_fill (
    tenant_id   uuid        not null,
    attached_id bigint      not null references backstay.attached (id),
    state       text        not null check (state in ('filling', 'pruning', 'current', 'purging')),
    after       jsonb,
    seen        bigint      not null default 0,
    refused     bigint      not null default 0,
    trouble     text,
    began_at    timestamptz not null,
    ended_at    timestamptz,
    primary key (tenant_id, attached_id)
);
comment on column backstay.attached_fill.refused is 'Rows whose text could not be computed; `trouble` says why the last one was.';
create index attached_fill_open on backstay.attached_fill (attached_id) where state <> 'current';
select backstay.fence('attached_fill');

alter table backstay.collection add column attached_id bigint;
comment on column backstay.collection.attached_id is 'Its documents are the rows of an attached table, and nobody else writes them.';

-- Makes the trigger function of an attachment. It runs in the transactions of people who know nothing of us, so it
-- computes no text, calls nothing of the user's and waits for nobody: it notes the keys of changed rows. A function of
-- its own for each attachment, because its owner may drop it together with its triggers, whoever owns the table.
create function backstay.make_attached_trigger(
    of_attached bigint, tenant_column text, of_owner uuid, key_columns text[], watched text[])
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $make$
declare
    -- Values of these types become JSON by Postgres' own code and never by a cast that the user has made.
    key_types constant oid[] := '{int2,int4,int8,uuid,text,varchar,date}'::regtype[]::oid[];
    keys text; both_keys text; joined text; images text[]; tenant text; both_tenant text;
    body text;
    changed text := 'select c.tenant, jsonb_agg(c.key) as keys from (select q.tenant, q.key, (row_number() over '
        '(partition by q.tenant) - 1) / 1000 as part from (%s) q where q.tenant is not null) c group by c.tenant, c.part';
begin
    select string_agg(format('r.%I', k), ', '), string_agg(format('coalesce(n.%1$I, o.%1$I)', k), ', '),
           string_agg(format('o.%1$I = n.%1$I', k), ' and ')
        into keys, both_keys, joined from unnest(key_columns) k;
    select array[string_agg(format('o.%I', w), ', '), string_agg(format('n.%I', w), ', ')]
        into images from unnest(watched) w;
    if tenant_column is null then
        tenant := format('%L::uuid', of_owner);
        both_tenant := tenant;
    else
        tenant := format('r.%I', tenant_column);
        both_tenant := format('coalesce(n.%1$I, o.%1$I)', tenant_column);
        joined := joined || format(' and o.%1$I = n.%1$I', tenant_column);
    end if;
    body := format($body$
        declare
            fenced_to constant text := current_setting('backstay.tenant_id', true);
            note record;
            intact boolean;
        begin
            -- A column that was dropped or renamed must not break the write: all rows are looked at again later.
            select count(*) = %L into intact from pg_attribute a
            where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped and a.attname = any(%L::text[])
              and (a.attname <> all(%L::text[]) or a.atttypid = any(%L::oid[]))
              and (a.attname <> %L or a.atttypid = 'uuid'::regtype);
            if not intact or tg_op = 'TRUNCATE' then
                perform set_config('backstay.tenant_id', '00000000-0000-0000-0000-000000000000', true);
                insert into backstay.attached_change (tenant_id, attached_id, keys, since)
                values ('00000000-0000-0000-0000-000000000000', %L, '[]', statement_timestamp());
            elsif tg_op = 'INSERT' then
                for note in %s loop
                    perform set_config('backstay.tenant_id', note.tenant::text, true);
                    insert into backstay.attached_change (tenant_id, attached_id, keys, since)
                    values (note.tenant, %L, note.keys, statement_timestamp());
                end loop;
            elsif tg_op = 'UPDATE' then
                for note in %s loop
                    perform set_config('backstay.tenant_id', note.tenant::text, true);
                    insert into backstay.attached_change (tenant_id, attached_id, keys, since)
                    values (note.tenant, %L, note.keys, statement_timestamp());
                end loop;
            else
                for note in %s loop
                    perform set_config('backstay.tenant_id', note.tenant::text, true);
                    insert into backstay.attached_change (tenant_id, attached_id, keys, since)
                    values (note.tenant, %L, note.keys, statement_timestamp());
                end loop;
            end if;
            -- The writer's own transaction goes on as it was.
            perform set_config('backstay.tenant_id', coalesce(fenced_to, ''), true);
            return null;
        end
        $body$,
        cardinality(watched), watched, key_columns, key_types, coalesce(tenant_column, ''),
        of_attached,
        format(changed, format('select %s as tenant, jsonb_build_array(%s) as key from new_rows r', tenant, keys)),
        of_attached,
        -- Byte by byte, so that every type can be compared and no operator of the user's is called.
        format(changed, format(
            'select %s as tenant, jsonb_build_array(%s) as key from old_rows o full join new_rows n on %s '
            'where row(%s)::record *<> row(%s)::record', both_tenant, both_keys, joined, images[1], images[2])),
        of_attached,
        format(changed, format('select %s as tenant, jsonb_build_array(%s) as key from old_rows r', tenant, keys)),
        of_attached);
    -- As a literal: a name may hold whatever would end another kind of quote. With `row_security` off, as a restore has
    -- it, Postgres would refuse to write a table that has a policy.
    execute format(
        'create or replace function backstay.%I() returns trigger language plpgsql security definer '
        'set search_path = pg_catalog, pg_temp set row_security = on as %L', 'attached_' || of_attached, body);
    execute format('revoke execute on function backstay.%I() from public', 'attached_' || of_attached);
end
$make$;
revoke execute on function backstay.make_attached_trigger(bigint, text, uuid, text[], text[]) from public;
grant execute on function backstay.make_attached_trigger(bigint, text, uuid, text[], text[]) to backstay_system;

-- Drops it with its triggers, which locks the table for a moment.
create function backstay.drop_attached_trigger(of_attached bigint)
returns void language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    execute format('drop function if exists backstay.%I() cascade', 'attached_' || of_attached);
end
$$;
revoke execute on function backstay.drop_attached_trigger(bigint) from public;
grant execute on function backstay.drop_attached_trigger(bigint) to backstay_system;
