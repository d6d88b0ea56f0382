-- The triggers go first: without the tables they would break the writes of the user's tables.
do $$
declare
    made text;
begin
    for made in select proname from pg_proc
        where pronamespace = 'backstay'::regnamespace and proname ~ '^attached_\d+$'
    loop
        execute format('drop function backstay.%I() cascade', made);
    end loop;
end
$$;
drop function backstay.drop_attached_trigger(bigint);
drop function backstay.make_attached_trigger(bigint, text, uuid, text[], text[]);
alter table backstay.collection drop column attached_id;
drop table backstay.attached_fill;
drop table backstay.attached_change;
drop table backstay.attached;
