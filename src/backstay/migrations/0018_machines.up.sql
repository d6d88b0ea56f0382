-- phase: expand
-- State machines: their definitions as tables of legal transitions, instances that can only follow them, and history.

-- A definition is the operator's code, the same for every tenant. No role may write these tables: `register_machine`
-- adds a whole version, and nothing changes one that stands.
create table backstay.machine (
    name          text        not null,
    version       text        not null,
    initial       text        not null,
    fingerprint   bytea       not null,   -- two definitions with the same one are the same
    definition    jsonb       not null,   -- as declared, for diagrams and for processes without the code
    registered_at timestamptz not null,
    primary key (name, version)
);

create table backstay.machine_state (
    machine text    not null,
    version text    not null,
    name    text    not null,
    final   boolean not null,
    primary key (machine, version, name),
    foreign key (machine, version) references backstay.machine (name, version)
);

create table backstay.machine_rule (
    machine    text not null,
    version    text not null,
    from_state text not null,
    event      text not null,
    to_state   text not null,
    primary key (machine, version, from_state, event, to_state),
    foreign key (machine, version, from_state) references backstay.machine_state (machine, version, name),
    foreign key (machine, version, to_state) references backstay.machine_state (machine, version, name)
);
grant select on backstay.machine, backstay.machine_state, backstay.machine_rule to backstay_app, backstay_system;

-- Adds a version of a machine unless it stands already; returns the fingerprint of the one that stands afterwards.
create function backstay.register_machine(given jsonb, print bytea, at timestamptz)
returns bytea language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    standing bytea;
begin
    insert into backstay.machine (name, version, initial, fingerprint, definition, registered_at)
    values (given ->> 'name', given ->> 'version', given ->> 'initial', print, given, at)
    on conflict do nothing;
    if found then
        insert into backstay.machine_state (machine, version, name, final)
        select given ->> 'name', given ->> 'version', s.name, s.final
        from jsonb_to_recordset(given -> 'states') as s(name text, final boolean);
        insert into backstay.machine_rule (machine, version, from_state, event, to_state)
        select distinct given ->> 'name', given ->> 'version', r."from", r.event, r."to"
        from jsonb_to_recordset(given -> 'transitions') as r("from" text, event text, "to" text);
    end if;
    select m.fingerprint into standing from backstay.machine m
    where m.name = given ->> 'name' and m.version = given ->> 'version';
    return standing;
end
$$;
revoke execute on function backstay.register_machine(jsonb, bytea, timestamptz) from public;
grant execute on function backstay.register_machine(jsonb, bytea, timestamptz) to backstay_system;

create table backstay.machine_instance (
    tenant_id   uuid        not null,
    id          uuid        not null,
    machine     text        not null,
    version     text        not null,
    key         text,
    state       text        not null,
    seq         bigint      not null,     -- counts the transitions; a timer with another number does nothing
    data        jsonb       not null,
    created_at  timestamptz not null,
    entered_at  timestamptz not null,
    due_at      timestamptz,              -- when the state's timeout fires
    finished_at timestamptz,
    primary key (tenant_id, id),
    foreign key (machine, version, state) references backstay.machine_state (machine, version, name)
) with (fillfactor = 80);
create unique index machine_instance_key on backstay.machine_instance (tenant_id, machine, key) where key is not null;
create index machine_instance_state on backstay.machine_instance (tenant_id, machine, state, id);
select backstay.fence('machine_instance');
revoke delete on backstay.machine_instance from backstay_app, backstay_system;

-- One row for each state that an instance has entered. What came with the event lies encrypted in the audit entry.
create table backstay.machine_transition (
    tenant_id   uuid        not null,
    instance_id uuid        not null,
    seq         bigint      not null,
    event       text,                     -- null: the start
    from_state  text,
    to_state    text        not null,
    at          timestamptz not null,
    actor_id    uuid        not null,
    actor       text        not null,
    entry_id    uuid        not null,
    primary key (tenant_id, instance_id, seq),
    foreign key (tenant_id, instance_id) references backstay.machine_instance (tenant_id, id)
);
select backstay.fence('machine_transition');
revoke update, delete on backstay.machine_transition from backstay_app, backstay_system;
create trigger append_only before update or delete on backstay.machine_transition
    for each row execute function backstay.refuse_change();
create trigger no_truncate before truncate on backstay.machine_transition
    for each statement execute function backstay.refuse_change();

-- No state without its history row: asked when the transaction commits.
alter table backstay.machine_instance add constraint machine_instance_history
    foreign key (tenant_id, id, seq) references backstay.machine_transition (tenant_id, instance_id, seq)
    deferrable initially deferred;

-- An instance begins in its machine's initial state and goes only where a rule of its version leads. After the row,
-- so that the fence between tenants is asked first, and no other trigger can change what was checked.
create function backstay.check_machine_instance() returns trigger
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
create trigger legal after insert or update or delete on backstay.machine_instance
    for each row execute function backstay.check_machine_instance();
create trigger no_truncate before truncate on backstay.machine_instance
    for each statement execute function backstay.refuse_change();

-- History tells of the step that the instance has just taken, and of no other.
create function backstay.check_machine_transition() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if exists (
        select from backstay.machine_instance i
        where i.tenant_id = new.tenant_id and i.id = new.instance_id and i.seq = new.seq and i.state = new.to_state
          and case when new.seq = 0 then new.event is null and new.from_state is null
              else exists (
                  select from backstay.machine_rule r
                  where r.machine = i.machine and r.version = i.version
                    and r.from_state = new.from_state and r.event = new.event and r.to_state = new.to_state
              ) and exists (
                  select from backstay.machine_transition p
                  where p.tenant_id = new.tenant_id and p.instance_id = new.instance_id
                    and p.seq = new.seq - 1 and p.to_state = new.from_state
              ) end
    ) then
        return null;
    end if;
    raise exception 'instance % did not go from "%" to "%" by "%"',
        new.instance_id, new.from_state, new.to_state, new.event using errcode = 'check_violation';
end
$$;
create trigger legal after insert on backstay.machine_transition
    for each row execute function backstay.check_machine_transition();
