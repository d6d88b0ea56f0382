-- phase: expand
-- A statement that runs under settings of its own, so that a search by index can stand in another statement.

-- With the rights of its caller: whoever may call it might as well run the statement. Settings are put back afterwards;
-- after an error the end of the (sub)transaction does it.
create function backstay.tuned(statement text, settings jsonb)
returns table (chunk_id uuid, content_id text, score float8)
language plpgsql security invoker rows 50 as $$
declare
    names text[] := array(select jsonb_object_keys(settings));
    before text[];
begin
    perform '[1]'::public.halfvec;  -- its library knows the settings once it is loaded
    before := array(select current_setting(name) from unnest(names) with ordinality as g (name, at) order by at);
    perform set_config(name, settings ->> name, true) from unnest(names) as g (name);
    return query execute statement;
    perform set_config(name, value, true) from unnest(names, before) as g (name, value);
end
$$;
revoke execute on function backstay.tuned(text, jsonb) from public;
grant execute on function backstay.tuned(text, jsonb) to backstay_app;
