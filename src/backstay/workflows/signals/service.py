"""Decides about signals: each is one transaction with its audit entry, its event and, when one waits, its step."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from ...audit import Audit
from ...events import Events
from ...kernel.clock import Clock
from ...kernel.db import Database, Tx
from ...kernel.errors import FieldError
from ...kernel.principal import Principal
from .. import encoding
from ..models import Ended, NotStorable, RunEnded, RunNotFound, RunState, StepState
from ..wakes import Wakes
from . import store
from .models import SignalInvalid, SignalView

_ANY: TypeAdapter[Any] = TypeAdapter(Any)
_MAX_NAME, _MAX_KEY = 200, 500


class Signals:
    """Brings signals to runs. What a workflow has declared of its signals is checked when they are sent."""

    def __init__(self, db: Database, clock: Clock, wakes: Wakes, audit: Audit, events: Events) -> None:
        self._db, self._clock, self._wakes, self._audit, self._events = db, clock, wakes, audit, events
        self._declared: dict[tuple[str, str], Mapping[str, TypeAdapter[Any]]] = {}

    def declare(self, workflow: str, version: str, signals: Mapping[str, Any]) -> None:
        """The types of the payloads that a workflow takes, by name of the signal."""
        self._declared[workflow, version] = {name: TypeAdapter(kind) for name, kind in signals.items()}

    async def send(
        self,
        run: UUID,
        name: str,
        payload: Any = None,
        *,
        by: Principal,
        key: str | UUID | None = None,
        tx: Tx | None = None,
    ) -> SignalView:
        """Sends a signal to a run, which gets it when it asks for one of that `name`, in the order of sending.

        A signal that is sent before the run asks for it is kept. Idempotent on `key` within the run: the second time
        the first signal is returned, also when the run has ended meanwhile.

        Raises:
            RunNotFound: the tenant has none of that id.
            RunEnded: it has ended (409).
            SignalInvalid: the workflow has declared its signals and this is none of them, or the payload or the key
                cannot be stored (422).
        """
        known_as = None if key is None else str(key)
        text = _checked(name, known_as, payload)
        async with self._db.join(tx, by.tenant) as tx:
            addressee = await store.lock_run(tx, by.tenant, run)
            if addressee is None:
                raise RunNotFound(f"there is no run {run}")
            if known_as is not None and (sent := await store.with_key(tx, by.tenant, run, known_as)) is not None:
                return sent
            if (state := RunState(addressee.state)).finished:
                raise RunEnded(run, state)
            self._fit(addressee, name, text)
            seq = await store.waiting_step(tx, by.tenant, run, name)
            sent = await store.add(tx, by, run, name, text, known_as, seq, self._clock.now())
            about = {"name": name, "number": sent.number, "key": known_as}
            evidence = {"payload": sent.payload}
            await self._audit.record(tx, by, "run.signalled", f"run:{run}", run=run, metadata=about, payload=evidence)
            await self._events.emit(tx, "run.signalled", {"run": str(run), **about}, tenant=by.tenant)
            if seq is not None:
                await self._wakes.end(tx, by.tenant, run, seq, Ended(StepState.COMPLETED, text))
            return sent

    async def list(self, by: Principal, run: UUID, *, after: int = 0, limit: int = 50) -> list[SignalView]:
        """What was sent to a run, in order, after the signal with the number `after`.

        Raises:
            RunNotFound: the tenant has none of that id.
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            if not await store.has_run(tx, by.tenant, run):
                raise RunNotFound(f"there is no run {run}")
            return await store.page(tx, by.tenant, run, after=after, limit=limit)

    async def take(self, tx: Tx, tenant: UUID, run: UUID, name: str, seq: int) -> Ended | None:
        """The oldest signal of this name that no step has got, for the step `seq` whose run `tx` has locked."""
        payload = await store.take(tx, tenant, run, name, seq)
        return None if payload is None else Ended(StepState.COMPLETED, payload)

    def _fit(self, addressee: store.Addressee, name: str, payload: str) -> None:
        declared = self._declared.get((addressee.workflow, addressee.version))
        if not declared:
            return
        if name not in declared:
            raise SignalInvalid(
                f"the workflow {addressee.workflow} takes no signal {name!r}; it takes {', '.join(sorted(declared))}"
            )
        try:
            declared[name].validate_json(payload)
        except ValidationError as error:
            fields = [
                FieldError(".".join(("payload", *map(str, item["loc"]))), item["msg"])
                for item in error.errors(include_input=False, include_url=False)
            ]
            raise SignalInvalid(
                f"the payload of the signal {name} is wrong: {fields[0].field}: {fields[0].message}", errors=fields
            ) from None


def _checked(name: str, key: str | None, payload: Any) -> str:
    """The payload as it is stored, as JSON text."""
    for what, value, longest in (("name", name, _MAX_NAME), ("key", key, _MAX_KEY)):
        if value is not None and (not 0 < len(value) <= longest or not value.isprintable()):
            raise SignalInvalid(f"a signal's {what} has 1 to {longest} printable characters")
    try:
        return encoding.encode(_ANY, payload, "the sender")
    except NotStorable as error:
        raise SignalInvalid(error.detail) from None
