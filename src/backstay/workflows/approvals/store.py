"""Rows in, models out: one function per query, no decisions."""

from datetime import datetime
from typing import Any
from uuid import UUID

from ...kernel import sql
from ...kernel.db import Tx
from ...kernel.principal import Principal
from .models import ApprovalState, ApprovalView, Question

_queries = sql.load(__package__)
_LAST = UUID(int=2**128 - 1)


async def ask(
    tx: Tx, tenant: UUID, id: UUID, run: UUID, seq: int, workflow: str, question: Question, entry: UUID, now: datetime
) -> None:
    await _queries.ask.run(
        tx,
        tenant_id=tenant,
        id=id,
        run=run,
        seq=seq,
        workflow=workflow,
        title=question.title,
        request=question.request,
        about=dict(question.about),
        role=question.role,
        permission=question.permission,
        fallback=question.fallback,
        due_at=question.due_at,
        entry=entry,
        now=now,
    )


async def find(tx: Tx, tenant: UUID, id: UUID) -> ApprovalView | None:
    return await _queries.find_approval.maybe(tx, ApprovalView, tenant_id=tenant, id=id)


async def page(
    tx: Tx,
    tenant: UUID,
    *,
    after: UUID | None,
    limit: int,
    state: str | None,
    run: UUID | None,
    workflow: str | None,
    role: str | None,
) -> list[ApprovalView]:
    return await _queries.inbox.all(
        tx,
        ApprovalView,
        tenant_id=tenant,
        after=after or _LAST,
        limit=limit,
        state=state,
        run=run,
        workflow=workflow,
        role=role,
    )


async def decide(
    tx: Tx,
    by: Principal,
    id: UUID,
    state: ApprovalState,
    reason: str | None,
    edited: dict[str, Any] | None,
    now: datetime,
) -> bool:
    """False when it is not pending any more."""
    written = await _queries.decide.run(
        tx,
        tenant_id=by.tenant,
        id=id,
        state=state,
        decider_id=by.id,
        decider=by.name,
        reason=reason,
        edited=edited,
        now=now,
    )
    return written == 1


async def expire(tx: Tx, tenant: UUID, run: UUID, seq: int, now: datetime) -> ApprovalView | None:
    return await _queries.expire.maybe(tx, ApprovalView, tenant_id=tenant, run=run, seq=seq, now=now)


async def withdraw(tx: Tx, tenant: UUID, run: UUID, now: datetime) -> list[UUID]:
    return [row[0] for row in await _queries.withdraw.rows(tx, tenant_id=tenant, run=run, now=now)]
