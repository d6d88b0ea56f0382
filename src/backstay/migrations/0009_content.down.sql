do $$
declare
    target text;
begin
    for target in
        select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'backstay' and c.relkind = 'r' and c.relname ~ '^vec_\d+$'
    loop
        execute format('drop table backstay.%I', target);
    end loop;
end
$$;
drop function backstay.create_space_table(bigint, int);
drop function backstay.take_space(text, text, text, timestamptz);
drop table backstay.vec_template;
drop table backstay.bm_delta;
drop table backstay.bm_term;
drop table backstay.embed_pending;
drop table backstay.embed_call;
drop table backstay.chunk;
drop table backstay.content;
drop policy used on backstay.space;
drop table backstay.collection;
drop table backstay.space;
