"""A registered machine, as the program that declared it uses it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel

from ...kernel.db import Tx
from ...kernel.principal import Principal
from .definition import Definition
from .mermaid import diagram
from .models import Instance, InstanceDetail

if TYPE_CHECKING:
    from .service import Machines


class Machine:
    """Starts instances of its version, and sends events to instances of any version."""

    def __init__(self, machines: "Machines", definition: Definition) -> None:
        self._machines, self.definition = machines, definition

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def version(self) -> str:
        return self.definition.version

    @property
    def mermaid(self) -> str:
        """The machine as a Mermaid diagram."""
        return diagram(self.definition)

    async def start(
        self,
        key: str | UUID | None = None,
        *,
        data: Mapping[str, Any] | BaseModel | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> Instance:
        """A new instance in the initial state, in `tx` when given: it exists if and only if that commits.

        `key` is yours, such as the id of your row; a second start with it returns the first instance, whatever its
        state and version. `by` is who acts; without one it is the system, for `tenant` or the tenant of `tx`.

        Raises:
            ConfigurationError: none of `tenant`, `by` and `tx` says which tenant it is for.
            DataInvalid: key or data cannot be stored.
        """
        return await self._machines.start(self.definition, key, data=data, tenant=tenant, by=by, tx=tx)

    async def send(
        self,
        instance: UUID | str,
        event: str,
        *,
        data: Mapping[str, Any] | BaseModel | None = None,
        seq: int | None = None,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> Instance:
        """Sends an event to an instance, given by its id or key. Guard, state, history, audit entry, outbox event and
        the next timer are one transaction: `tx` when given, or its own.

        `data` is for the guard and the audit. With `seq`, only if the instance is still at that number.

        Raises:
            IllegalTransition: the event leads nowhere from its state; the error has `state` and `allowed`.
            GuardRefused, UnknownEvent, InstanceMoved, InstanceNotFound, DataInvalid: as they say.
        """
        return await self._machines.send(
            instance, event, machine=self.name, data=data, seq=seq, tenant=tenant, by=by, tx=tx
        )

    async def get(
        self,
        instance: UUID | str,
        *,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> InstanceDetail:
        """An instance, by its id or key, with its history.

        Raises:
            InstanceNotFound: the tenant has none of that id or key.
        """
        return await self._machines.get(instance, machine=self.name, tenant=tenant, by=by, tx=tx)

    async def delete(
        self,
        instance: UUID | str,
        *,
        tenant: UUID | None = None,
        by: Principal | None = None,
        tx: Tx | None = None,
    ) -> None:
        """Deletes an instance, by its id or key, with its data and history; what the audit has of it stays.

        Raises:
            InstanceNotFound: the tenant has none of that id or key.
        """
        await self._machines.delete(instance, machine=self.name, tenant=tenant, by=by, tx=tx)
