"""Rows of runs that wait: one function per query, no decisions."""

from datetime import datetime
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx
from .models import Ended, Taken

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
        output=ended.output,
        error=ended.error,
        now=now,
    )
    return written == 1


async def park(tx: Tx, run: Taken) -> bool:
    return await _queries.park.run(tx, tenant_id=run.tenant_id, id=run.id, fence=run.fence) == 1
