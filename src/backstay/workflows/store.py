"""Rows in, models out: one function per query, no decisions."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from psycopg import errors

from ..kernel import sql
from ..kernel.db import Tx
from . import blobs
from .models import Recorded, RunDetail, RunView, StepView, StepWrite, Taken

_queries = sql.load(__package__)
_LAST = UUID(int=2**128 - 1)


async def add_run(
    tx: Tx,
    *,
    tenant: UUID,
    id: UUID,
    workflow: str,
    version: str,
    key: str | None,
    principal: Mapping[str, Any],
    input: str,
    parent: tuple[UUID, int] | None,
    deadline: datetime | None,
    now: datetime,
) -> bool:
    """False when the workflow has a run with this key."""
    added = await _queries.add_run.value(
        tx,
        tenant_id=tenant,
        id=id,
        workflow=workflow,
        version=version,
        key=key,
        principal=dict(principal),
        input=blobs.inline(input),
        parent_id=parent and parent[0],
        parent_seq=parent and parent[1],
        deadline=deadline,
        now=now,
    )
    if added is None:
        return False
    await blobs.keep(tx, tenant, id, "input", input)
    return True


async def run_with_key(tx: Tx, tenant: UUID, workflow: str, key: str) -> UUID:
    id: UUID = await _queries.run_with_key.value(tx, tenant_id=tenant, workflow=workflow, key=key)
    return id


async def take(
    tx: Tx, tenant: UUID, id: UUID, fence: int, now: datetime, patience: timedelta
) -> Taken | TimeoutError | None:
    """The run, handed to `fence`; None when it has finished; a TimeoutError when another transaction holds its row."""
    await _queries.be_impatient.run(tx, milliseconds=int(patience.total_seconds() * 1000))
    try:
        return await _queries.take.maybe(tx, Taken, tenant_id=tenant, id=id, fence=fence, now=now)
    except errors.LockNotAvailable:
        return TimeoutError()


async def recorded(tx: Tx, tenant: UUID, run: UUID) -> list[Recorded]:
    return await _queries.recorded.all(tx, Recorded, tenant_id=tenant, run_id=run)


async def hold(tx: Tx, run: Taken, patience: timedelta) -> bool:
    held = await _queries.hold.value(
        tx,
        tenant_id=run.tenant_id,
        id=run.id,
        fence=run.fence,
        milliseconds=int(patience.total_seconds() * 1000),
    )
    return held is not None


async def record_steps(tx: Tx, writes: Sequence[tuple[Taken, Sequence[StepWrite]]]) -> set[int]:
    """The positions of those that were not written: another worker has the run, or a transaction holds it.

    One statement; one more for each output that is large, which therefore needs a transaction of its own.
    """
    rows = [_row(item, run, step) for item, (run, steps) in enumerate(writes) for step in steps]
    refused = await _queries.record_steps.rows(tx, rows=orjson.dumps(rows).decode())
    passed_over = {item for (item,) in refused}
    for item, (run, steps) in enumerate(writes):
        if item not in passed_over:
            for step in steps:
                await blobs.keep(tx, run.tenant_id, run.id, "step", step.output, step.seq)
    return passed_over


def _row(item: int, run: Taken, step: StepWrite) -> dict[str, Any]:
    return {
        "item": item,
        "tenant_id": run.tenant_id,
        "run_id": run.id,
        "claim": run.fence,
        "seq": step.seq,
        "kind": step.kind,
        "name": step.name,
        "args_hash": step.args_hash.hex(),
        "state": step.state,
        "output": None if (output := blobs.inline(step.output)) is None else orjson.Fragment(output),
        "error": step.error,
        "failures": step.failures,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
    }


async def finish(
    tx: Tx, run: Taken, state: str, output: str | None, error: str | None, failed_step: int | None, now: datetime
) -> bool:
    written = await _queries.finish.run(
        tx,
        tenant_id=run.tenant_id,
        id=run.id,
        fence=run.fence,
        state=state,
        output=blobs.inline(output),
        error=error,
        failed_step=failed_step,
        now=now,
    )
    if written != 1:
        return False
    await blobs.keep(tx, run.tenant_id, run.id, "output", output)
    return True


async def find(tx: Tx, tenant: UUID, id: UUID) -> RunDetail | None:
    return await _queries.find.maybe(tx, RunDetail, tenant_id=tenant, id=id)


async def steps(tx: Tx, tenant: UUID, run: UUID) -> list[StepView]:
    return await _queries.steps.all(tx, StepView, tenant_id=tenant, run_id=run)


async def page(
    tx: Tx,
    tenant: UUID,
    *,
    after: UUID | None,
    limit: int,
    state: str | None,
    workflow: str | None,
    parent: UUID | None,
) -> list[RunView]:
    return await _queries.page.all(
        tx,
        RunView,
        tenant_id=tenant,
        after=after or _LAST,
        limit=limit,
        state=state,
        workflow=workflow,
        parent=parent,
    )


async def prune_runs(tx: Tx, tenant: UUID, before: datetime, limit: int) -> int:
    return await _queries.prune_runs.run(tx, tenant_id=tenant, before=before, limit=limit)
