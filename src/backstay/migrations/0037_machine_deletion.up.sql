-- phase: expand
-- An instance of a machine can be deleted as a whole, with its history, and in no other way.

-- As before, and lets through what `delete_machine_instance` deletes.
create or replace function backstay.check_machine_instance() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'DELETE' then
        if current_setting('backstay.deleting', true) = old.id::text then
            return null;
        end if;
        raise exception 'an instance of a machine is not deleted' using errcode = 'insufficient_privilege';
    end if;
    if tg_op = 'INSERT' then
        if new.seq <> 0 or not exists (
            select from backstay.machine m
            where m.name = new.machine and m.version = new.version and m.initial = new.state
        ) then
            raise exception 'machine % version % does not begin in the state "%"', new.machine, new.version, new.state
                using errcode = 'check_violation';
        end if;
        return null;
    end if;
    if (new.tenant_id, new.id, new.machine, new.version, new.key)
        is distinct from (old.tenant_id, old.id, old.machine, old.version, old.key)
    then
        raise exception 'an instance keeps its tenant, id, machine, version and key'
            using errcode = 'insufficient_privilege';
    end if;
    if new.state = old.state and new.seq = old.seq then
        return null;
    end if;
    if exists (
        select from backstay.machine_state s
        where s.machine = old.machine and s.version = old.version and s.name = old.state and s.final
    ) then
        raise exception 'the state "%" of machine % is final', old.state, old.machine using errcode = 'check_violation';
    end if;
    if new.seq <> old.seq + 1 or not exists (
        select from backstay.machine_rule r
        where r.machine = old.machine and r.version = old.version
          and r.from_state = old.state and r.to_state = new.state
    ) then
        raise exception 'machine % version % has no transition from "%" to "%" with number %',
            old.machine, old.version, old.state, new.state, new.seq using errcode = 'check_violation';
    end if;
    return null;
end
$$;

create function backstay.keep_machine_transition() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'DELETE' and current_setting('backstay.deleting', true) = old.instance_id::text then
        return old;
    end if;
    raise exception 'backstay.% is append-only', tg_table_name using errcode = 'insufficient_privilege';
end
$$;
drop trigger append_only on backstay.machine_transition;
create trigger append_only before update or delete on backstay.machine_transition
    for each row execute function backstay.keep_machine_transition();

-- Deletes an instance of the tenant that the transaction is fenced to. False when it has none of that id.
create function backstay.delete_machine_instance(tenant uuid, instance uuid) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    gone boolean;
begin
    if tenant is distinct from nullif(current_setting('backstay.tenant_id', true), '')::uuid then
        raise exception 'the transaction is fenced to another tenant' using errcode = 'insufficient_privilege';
    end if;
    perform set_config('backstay.deleting', instance::text, true);
    delete from backstay.machine_transition t where t.tenant_id = tenant and t.instance_id = instance;
    delete from backstay.machine_instance i where i.tenant_id = tenant and i.id = instance;
    gone := found;
    perform set_config('backstay.deleting', '', true);
    return gone;
end
$$;
revoke execute on function backstay.delete_machine_instance(uuid, uuid) from public;
grant execute on function backstay.delete_machine_instance(uuid, uuid) to backstay_app, backstay_system;
