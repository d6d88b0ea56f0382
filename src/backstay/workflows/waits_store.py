"""Rows of runs that wait: one function per query, no decisions."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from . import blobs
from .models import Ended, RunFacts, RunState, Taken

_queries = sql.load(__package__)


async def open_wait(
    tx: Tx, run: Taken, seq: int, kind: str, name: str, args_hash: bytes, due_at: datetime | None, now: datetime
) -> None:
    await _queries.open_wait.run(
        tx,
        tenant_id=run.tenant_id,
        run_id=run.id,
        fence=run.fence,
        seq=seq,
        kind=kind,
        name=name,
        args_hash=args_hash,
        due_at=due_at,
        now=now,
    )


async def end_wait(tx: Tx, tenant: UUID, run: UUID, seq: int, ended: Ended, now: datetime) -> bool:
    """False when it has ended already."""
    written = await _queries.end_wait.run(
        tx,
        tenant_id=tenant,
        run_id=run,
        seq=seq,
        state=ended.state,
        output=blobs.inline(ended.output),
        error=ended.error,
        now=now,
    )
    if written != 1:
        return False
    await blobs.keep(tx, tenant, run, "step", ended.output, seq)
    return True


async def park(tx: Tx, run: Taken) -> bool:
    return await _queries.park.run(tx, tenant_id=run.tenant_id, id=run.id, fence=run.fence) == 1


async def lock(tx: Tx, tenant: UUID, id: UUID) -> tuple[RunState, tuple[str, str]] | None:
    """The run's state, and the name and version of its workflow."""
    rows = await _queries.lock_to_cancel.rows(tx, tenant_id=tenant, id=id)
    return (RunState(rows[0][0]), (rows[0][1], rows[0][2])) if rows else None


async def cancel(tx: Tx, tenant: UUID, id: UUID, reason: str, now: datetime) -> RunFacts:
    return await _queries.cancel_run.one(tx, RunFacts, tenant_id=tenant, id=id, reason=reason, now=now)


async def ask_to_stop(tx: Tx, tenant: UUID, id: UUID, reason: str) -> bool:
    """False when it was asked before."""
    return await _queries.ask_to_stop.run(tx, tenant_id=tenant, id=id, reason=reason) == 1


async def stop_children(tx: Tx, tenant: UUID, id: UUID, reason: str) -> list[UUID]:
    return [row[0] for row in await _queries.stop_children.rows(tx, tenant_id=tenant, id=id, reason=reason)]


async def to_stop(tx: Tx, runs: Sequence[tuple[UUID, UUID]]) -> dict[UUID, str]:
    """The reasons, for those of the runs (tenant and id) that are to stop."""
    rows = await _queries.to_stop.rows(tx, tenants=[tenant for tenant, _ in runs], ids=[id for _, id in runs])
    return {row[0]: row[1] for row in rows}
