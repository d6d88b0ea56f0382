drop function backstay.delete_machine_instance(uuid, uuid);
drop trigger append_only on backstay.machine_transition;
create trigger append_only before update or delete on backstay.machine_transition
    for each row execute function backstay.refuse_change();
drop function backstay.keep_machine_transition();
create or replace function backstay.check_machine_instance() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op = 'DELETE' then
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
