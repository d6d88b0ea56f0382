"""State machines over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import Query

from ...kernel.db import Tx
from ...kernel.http import Caller, Page, PageRequest, Router, service
from .models import (
    CodeMissing,
    DataInvalid,
    GuardRefused,
    IllegalTransition,
    Instance,
    InstanceDetail,
    InstanceMoved,
    InstanceNotFound,
    InstanceView,
    MachineNotFound,
    MachineView,
    NewEvent,
    NewInstance,
    TransitionView,
    UnknownEvent,
)
from .service import Machines

router = Router("/api/machines", tag="machines")
Service = Annotated[Machines, service("machines")]
Text = Annotated[str | None, Query(max_length=200)]


@router.get("", permission="machines:read")
async def definitions(by: Caller, page: PageRequest, machines: Service, name: Text = None) -> Page[MachineView]:
    """Registered state machines in every version, each with its Mermaid diagram."""
    after = (page.after[0], page.after[1]) if page.after else None
    found = await machines.definitions(by, name=name, after=after, limit=page.limit + 1)
    return Page.of(found, page, lambda machine: [machine.name, machine.version])


@router.get("/instances", permission="machines:read")
async def index(
    by: Caller,
    page: PageRequest,
    machines: Service,
    machine: Text = None,
    state: Text = None,
    key: Annotated[str | None, Query(max_length=500)] = None,
) -> Page[InstanceView]:
    """The tenant's instances, newest first."""
    after = UUID(page.after[0]) if page.after else None
    found = await machines.list(by, limit=page.limit + 1, after=after, machine=machine, state=state, key=key)
    return Page.of(found, page, lambda instance: [instance.id])


@router.post("/instances", permission="machines:write", status=201, errors=[MachineNotFound, DataInvalid])
async def start(body: NewInstance, by: Caller, tx: Tx, machines: Service) -> Instance:
    """Start an instance of a machine in its initial state. A second start with the same `key` returns the first
    instance."""
    return await machines.start(body.machine, body.key, data=body.data, by=by, tx=tx)


@router.get("/instances/{id}", permission="machines:read", errors=[InstanceNotFound])
async def show(id: UUID, by: Caller, machines: Service) -> InstanceDetail:
    """One instance with the newest of its history and the events that it takes now."""
    return await machines.get(id, by=by)


@router.get("/instances/{id}/history", permission="machines:read", errors=[InstanceNotFound])
async def history(id: UUID, by: Caller, page: PageRequest, machines: Service) -> Page[TransitionView]:
    """The steps of an instance, newest first."""
    before = page.after[0] if page.after else None
    found = await machines.history(by, id, before=before, limit=page.limit + 1)
    return Page.of(found, page, lambda step: [step.seq])


@router.post(
    "/instances/{id}/send",
    permission="machines:write",
    errors=[InstanceNotFound, UnknownEvent, IllegalTransition, GuardRefused, InstanceMoved, CodeMissing, DataInvalid],
)
async def send(id: UUID, body: NewEvent, by: Caller, tx: Tx, machines: Service) -> Instance:
    """Send an event to an instance. 409 names the state and the events that it takes."""
    return await machines.send(id, body.event, data=body.data, seq=body.seq, by=by, tx=tx)


@router.delete("/instances/{id}", permission="machines:write", status=204, errors=[InstanceNotFound])
async def delete(id: UUID, by: Caller, tx: Tx, machines: Service) -> None:
    """Delete an instance with its data and history. Its audit entries stay."""
    await machines.delete(id, by=by, tx=tx)
