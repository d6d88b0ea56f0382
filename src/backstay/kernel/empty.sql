-- Drops everything of the users in a database: their schemas, and what lies in `public` but belongs to no extension.
do $$
declare
    found record;
begin
    for found in
        select nspname from pg_namespace n
        where nspname !~ '^pg_' and nspname not in ('information_schema', 'public')
          and not exists (select from pg_depend d where d.objid = n.oid and d.deptype = 'e')
    loop
        execute format('drop schema %I cascade', found.nspname);
    end loop;
    for found in
        select oid, case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                                 when 'f' then 'foreign table' else 'table' end as kind
        from pg_class c
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'S', 'f')
          and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'e')
    loop
        -- A partition, or a column's sequence, has gone with its table already.
        if exists (select from pg_class where oid = found.oid) then
            execute format('drop %s %s cascade', found.kind, found.oid::regclass);
        end if;
    end loop;
    for found in
        select oid from pg_proc p
        where pronamespace = 'public'::regnamespace
          and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
    loop
        execute format('drop routine if exists %s cascade', found.oid::regprocedure);
    end loop;
    for found in
        select t.oid from pg_type t left join pg_class c on c.oid = t.typrelid
        where typnamespace = 'public'::regnamespace and (typtype in ('e', 'd', 'r') or c.relkind = 'c')
          and not exists (select from pg_depend d where d.objid in (t.oid, c.oid) and d.deptype = 'e')
    loop
        if exists (select from pg_type where oid = found.oid) then
            execute format('drop type %s cascade', found.oid::regtype);
        end if;
    end loop;
end
$$;
