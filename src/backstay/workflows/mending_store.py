"""Rows of runs that get a second chance: one function per query, no decisions."""

from datetime import datetime
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from .models import Mendable, Taken

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
    await _queries.fork_blobs.run(tx, tenant_id=tenant, id=id, fork=fork, step=step)


async def begin_undoing(tx: Tx, run: Taken, state: str, error: str, failed_step: int | None) -> bool:
    written = await _queries.begin_undoing.run(
        tx,
        tenant_id=run.tenant_id,
        id=run.id,
        fence=run.fence,
        state=state,
        error=error,
        failed_step=failed_step,
    )
    return written == 1


async def has_something_to_undo(tx: Tx, tenant: UUID, id: UUID) -> bool:
    return bool(await _queries.has_something_to_undo.value(tx, tenant_id=tenant, id=id))
