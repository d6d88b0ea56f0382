"""Decides about machines: registration, start, transitions, timeouts. Each decision is one transaction."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from ...audit import Audit
from ...events import Events
from ...jobs import JobContext, Jobs, Snooze
from ...kernel import json
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import ConfigurationError, Invalid, TenantMismatch
from ...kernel.ids import new_id
from ...kernel.principal import Principal
from . import store
from .choice import choose, missing
from .definition import Definition, State
from .machine import Machine
from .mermaid import diagram
from .models import (
    CodeMissing,
    DataInvalid,
    Instance,
    InstanceDetail,
    InstanceMoved,
    InstanceNotFound,
    InstanceView,
    MachineView,
    TimeOut,
    TransitionView,
)
from .registry import Registry

TIMEOUT = "machine.timeout"
SHOWN = 50  # steps of history beside an instance
_MAX_KEY = 500
_CODE_WAIT = timedelta(seconds=10)
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

Data = Mapping[str, Any] | BaseModel | None


class Machines:
    """The registered machines of a process, and their instances."""

    def __init__(self, db: Database, clock: Clock, jobs: Jobs, audit: Audit, events: Events) -> None:
        self._db, self._clock, self._audit, self._events = db, clock, audit, events
        self._registry = Registry(db, clock)
        self._timer = jobs.handler(TIMEOUT, self._time_out, TimeOut, queue="workflows")

    def machine(self, definition: Definition) -> Machine:
        """Registers a machine. It is put into the database when the App starts, or with its first instance.

        Raises:
            ConfigurationError: name and version are taken in this process.
        """
        self._registry.declare(definition)
        return Machine(self, definition)

    async def register(self) -> None:
        """Puts the machines of this process into the database.

        Raises:
            ConfigurationError: another definition stands under the same name and version.
        """
        await self._registry.register()

    async def start(
        self,
        machine: Definition | str,
        key: str | UUID | None = None,
        *,
        data: Data = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> Instance:
        """As `Machine.start`; a machine given by name starts in its newest version.

        Raises:
            MachineNotFound: there is none of that name.
        """
        by = _acting(tenant, by, tx, machine if isinstance(machine, str) else machine.name)
        about, known_as, id, now = _storable(data), _key(key), new_id(), self._clock.now()
        if isinstance(machine, Definition):
            await self._registry.ensure(machine)
        async with self._db.join(tx, by.tenant) as tx:
            definition = machine if isinstance(machine, Definition) else await self._registry.newest(tx, machine)
            state = definition.by_name[definition.initial]
            added = await store.add_instance(
                tx,
                tenant=by.tenant,
                id=id,
                machine=definition.name,
                version=definition.version,
                key=known_as,
                state=state.name,
                data=about,
                now=now,
                due_at=_due(state, now),
                finished_at=now if state.final else None,
            )
            if not added:
                return await self._found(tx, by, str(known_as), definition.name)
            instance = await self._found(tx, by, id, definition.name)
            await self._tell(tx, by, instance, "machine.started", None, None, about)
            return instance

    async def send(
        self,
        instance: UUID | str,
        event: str,
        *,
        machine: str | None = None,
        data: Data = None,
        seq: int | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> Instance:
        """As `Machine.send`; without `machine` the instance is given by its id."""
        by, given = _acting(tenant, by, tx, machine or "send"), _storable(data)
        async with self._db.join(tx, by.tenant) as tx:
            id = await self._id(tx, by, instance, machine)
            held = await store.lock(tx, by.tenant, id)
            if held is None or machine not in (None, held.machine):
                raise _not_found(instance)
            if seq is not None and held.seq != seq:
                held = await self._with_allowed(tx, held)
                raise InstanceMoved(f"it is at number {held.seq}, not {seq}", held.state, held.allowed)
            return await self._move(tx, by, held, event, given)

    async def get(
        self,
        instance: UUID | str,
        *,
        machine: str | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> InstanceDetail:
        """One instance, with the newest of its history and the events that may be sent.

        Raises:
            InstanceNotFound: the tenant has none of that id, or of that key in `machine`.
        """
        by = _acting(tenant, by, tx, machine or "get")
        async with self._db.join(tx, by.tenant) as tx:
            found = await self._found(tx, by, instance, machine)
            steps = await store.history(tx, by.tenant, found.id, before=None, limit=SHOWN)
            return InstanceDetail(**found.model_dump(), history=steps)

    async def delete(
        self,
        instance: UUID | str,
        *,
        machine: str | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> None:
        """Deletes an instance with its data and its history, in whatever state it is; its timer then does nothing. The
        audit entries of what it went through stay, and one of the deletion comes to them.

        Raises:
            InstanceNotFound: the tenant has none of that id, or of that key in `machine`.
        """
        by = _acting(tenant, by, tx, machine or "delete")
        async with self._db.join(tx, by.tenant) as tx:
            held = await store.lock(tx, by.tenant, await self._id(tx, by, instance, machine))
            if held is None or machine not in (None, held.machine):
                raise _not_found(instance)
            await store.delete_instance(tx, by.tenant, held.id)
            about = {"machine": held.machine, "version": held.version, "state": held.state, "seq": held.seq}
            await self._audit.record(tx, by, "machine.deleted", f"machine_instance:{held.id}", metadata=about)
            told = {"instance": str(held.id), "key": held.key, **about}
            await self._events.emit(tx, "machine.deleted", told, tenant=by.tenant)

    async def history(
        self, by: Principal, instance: UUID, *, before: int | None = None, limit: int = SHOWN
    ) -> list[TransitionView]:
        """The steps of an instance, newest first, before the one with the number `before`.

        Raises:
            InstanceNotFound
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            await self._found(tx, by, instance, None)
            return await store.history(tx, by.tenant, instance, before=before, limit=limit)

    async def definitions(
        self, by: Principal, *, name: str | None = None, after: tuple[str, str] | None = None, limit: int = 50
    ) -> list[MachineView]:
        """Registered machines, by name and version, after those of the key `after`."""
        await self.register()
        async with self._db.tenant_tx(by.tenant) as tx:
            rows = await store.definitions(tx, name=name, after=after, limit=limit)
        return [
            MachineView.of(document, diagram(Definition.stored(document, missing)), registered_at)
            for document, registered_at in rows
        ]

    async def definition(self, by: Principal, name: str, version: str | None = None) -> Definition:
        """A machine as this process has it, the newest version by default.

        Raises:
            MachineNotFound
        """
        await self.register()
        async with self._db.tenant_tx(by.tenant) as tx:
            if version is None:
                return await self._registry.newest(tx, name)
            return await self._registry.of(tx, name, version)

    async def list(
        self,
        by: Principal,
        *,
        limit: int = 50,
        after: UUID | None = None,
        machine: str | None = None,
        state: str | None = None,
        key: str | None = None,
    ) -> list[InstanceView]:
        """Instances of the caller's tenant, newest first, older than the instance `after`."""
        async with self._db.tenant_tx(by.tenant) as tx:
            return await store.page(tx, by.tenant, after=after, limit=limit, machine=machine, state=state, key=key)

    # -- one step ---------------------------------------------------------------------------------------------------

    async def _move(self, tx: Tx, by: Principal, held: Instance, event: str, data: dict[str, Any]) -> Instance:
        """`event` takes the instance, whose row is locked, to where its definition and guards say."""
        definition = await self._registry.of(tx, held.machine, held.version)
        held = held.model_copy(update={"allowed": definition.allowed(held.state)})
        rule = await choose(definition, held, event, data, by, tx)
        state, now = definition.by_name[rule.to], self._clock.now()
        moved = await store.move(tx, by.tenant, held, state.name, now, _due(state, now), now if state.final else None)
        await self._tell(tx, by, moved, "machine.moved", event, rule.source, data)
        return moved.model_copy(update={"allowed": definition.allowed(moved.state)})

    async def _tell(
        self,
        tx: Tx,
        by: Principal,
        instance: Instance,
        what: str,
        event: str | None,
        source: str | None,
        data: dict[str, Any],
    ) -> None:
        """Audit entry, history, outbox event and timer of the state that the instance has just entered."""
        about = {
            "machine": instance.machine,
            "version": instance.version,
            "event": event,
            "from": source,
            "to": instance.state,
            "seq": instance.seq,
        }
        entry = await self._audit.record(
            tx, by, what, f"machine_instance:{instance.id}", metadata=about, payload={"data": data} if data else None
        )
        await store.add_transition(tx, by, instance, event, source, entry)
        told = {"instance": str(instance.id), "key": instance.key, **about, "final": instance.finished_at is not None}
        await self._events.emit(tx, what, told, tenant=by.tenant)
        if instance.due_at is not None:
            timer = TimeOut(instance=instance.id, seq=instance.seq)
            known_as = f"{instance.id}:{instance.seq}"
            await self._timer.enqueue(timer, tenant=by.tenant, key=known_as, at=instance.due_at, tx=tx)

    async def _time_out(self, context: JobContext, timer: TimeOut) -> None:
        """Sends the timeout's event, unless the instance has left the state that the timer was set for."""
        async with context.transaction() as tx:
            held = await store.lock(tx, context.tenant, timer.instance)
            if held is None or held.seq != timer.seq:
                return
            definition = await self._registry.of(tx, held.machine, held.version)
            event = definition.by_name[held.state].on_timeout
            if event is None:
                return
            try:
                await self._move(tx, context.by, held, event, {})
            except CodeMissing as error:
                raise Snooze(_CODE_WAIT, error.detail) from error

    # -- looking up -------------------------------------------------------------------------------------------------

    async def _id(self, tx: Tx, by: Principal, instance: UUID | str, machine: str | None) -> UUID:
        """The id of what is given by id, or by its key in `machine`."""
        if isinstance(instance, UUID) and (machine is None or await store.find(tx, by.tenant, instance) is not None):
            return instance
        key = _key(instance)
        found = await store.id_of_key(tx, by.tenant, machine, key) if machine and key else None
        if found is None:
            raise _not_found(instance)
        return found

    async def _found(self, tx: Tx, by: Principal, instance: UUID | str, machine: str | None) -> Instance:
        found = await store.find(tx, by.tenant, await self._id(tx, by, instance, machine))
        if found is None or machine not in (None, found.machine):
            raise _not_found(instance)
        return await self._with_allowed(tx, found)

    async def _with_allowed(self, tx: Tx, instance: Instance) -> Instance:
        definition = await self._registry.of(tx, instance.machine, instance.version)
        return instance.model_copy(update={"allowed": definition.allowed(instance.state)})


def _acting(tenant: UUID | None, by: Principal | None, tx: Tx | None, name: str) -> Principal:
    """Who acts, and with it for which tenant.

    Raises:
        ConfigurationError: nothing says for which. TenantMismatch: the principal is of another tenant.
    """
    whose = tenant or (by.tenant if by else None) or (tx.tenant if tx else None)
    if whose is None:
        raise ConfigurationError("say which tenant the instance is of: hand in `tenant`, `by` or a tenant's `tx`")
    if by is not None and by.tenant != whose:
        raise TenantMismatch("the principal who acts is of another tenant than the call is for")
    return by or Principal.system(whose, f"machine:{name}")


def _storable(data: Data) -> dict[str, Any]:
    """The data as it will be read back."""
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else dict(data or {})
    try:
        text = json.dumps(plain)
    except Invalid as error:
        raise DataInvalid(error.detail) from None
    if _NUL.search(text):
        raise DataInvalid("the data has text with a NUL character, which Postgres cannot store")
    read: dict[str, Any] = orjson.loads(text)
    return read


def _key(key: str | UUID | None) -> str | None:
    if key is None:
        return None
    text = str(key)
    if not 0 < len(text) <= _MAX_KEY or not text.isprintable():
        raise DataInvalid(f"a key has 1 to {_MAX_KEY} printable characters")
    return text


def _due(state: State, now: datetime) -> datetime | None:
    return None if state.timeout is None else now + state.timeout


def _not_found(instance: UUID | str) -> InstanceNotFound:
    return InstanceNotFound(f"there is no instance {instance}")
