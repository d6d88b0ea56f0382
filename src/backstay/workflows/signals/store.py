"""Rows in, models out: one function per query, no decisions."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from ...kernel import sql
from ...kernel.db import Tx
from ...kernel.principal import Principal
from .models import SignalView

_queries = sql.load(__package__)


class Addressee(NamedTuple):
    """The run that a signal is for, while it is locked."""

    workflow: str
    version: str
    state: str


async def lock_run(tx: Tx, tenant: UUID, run: UUID) -> Addressee | None:
    return await _queries.lock_run.maybe(tx, Addressee, tenant_id=tenant, run=run)


async def with_key(tx: Tx, tenant: UUID, run: UUID, key: str) -> SignalView | None:
    return await _queries.signal_with_key.maybe(tx, SignalView, tenant_id=tenant, run=run, key=key)


async def waiting_step(tx: Tx, tenant: UUID, run: UUID, name: str) -> int | None:
    seq: int | None = await _queries.waiting_step.value(tx, tenant_id=tenant, run=run, name=name)
    return seq


async def add(
    tx: Tx, by: Principal, run: UUID, name: str, payload: str, key: str | None, taken_by: int | None, now: datetime
) -> SignalView:
    return await _queries.add_signal.one(
        tx,
        SignalView,
        tenant_id=by.tenant,
        run=run,
        name=name,
        payload=payload,
        key=key,
        taken_by=taken_by,
        sender_id=by.id,
        sender=by.name,
        now=now,
    )


async def take(tx: Tx, tenant: UUID, run: UUID, name: str, seq: int) -> str | None:
    """The payload as JSON text; None when there is no signal for the step yet."""
    payload: str | None = await _queries.take_signal.value(tx, tenant_id=tenant, run=run, name=name, seq=seq)
    return payload


async def has_run(tx: Tx, tenant: UUID, run: UUID) -> bool:
    return bool(await _queries.has_run.value(tx, tenant_id=tenant, run=run))


async def page(tx: Tx, tenant: UUID, run: UUID, *, after: int, limit: int) -> list[SignalView]:
    return await _queries.sent.all(tx, SignalView, tenant_id=tenant, run=run, after=after, limit=limit)
