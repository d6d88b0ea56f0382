"""Rows of runs that get a second chance: one function per query, no decisions."""

from datetime import datetime
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from .models import Mendable

_queries = sql.load(__package__)


async def lock(tx: Tx, tenant: UUID, id: UUID) -> Mendable | None:
    return await _queries.lock_to_mend.maybe(tx, Mendable, tenant_id=tenant, id=id)


async def reset_failed(tx: Tx, tenant: UUID, id: UUID, step: int) -> None:
    await _queries.reset_failed.run(tx, tenant_id=tenant, id=id, step=step)


async def revive(tx: Tx, tenant: UUID, id: UUID, version: str) -> None:
    await _queries.revive_run.run(tx, tenant_id=tenant, id=id, version=version)


async def move(tx: Tx, tenant: UUID, id: UUID, version: str) -> None:
    await _queries.move_run.run(tx, tenant_id=tenant, id=id, version=version)


async def fork(tx: Tx, tenant: UUID, id: UUID, fork: UUID, step: int, version: str, now: datetime) -> None:
    await _queries.fork_run.run(tx, tenant_id=tenant, id=id, fork=fork, step=step, version=version, now=now)
    await _queries.fork_steps.run(tx, tenant_id=tenant, id=id, fork=fork, step=step)
