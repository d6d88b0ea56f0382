"""Rows in, models out: one function per query, no decisions."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import psycopg

from ..kernel import sql
from ..kernel.db import Tx
from .models import Attempt, Budget, CallRow, NewBudget, Period, Reservation, Scope, Settlement, SpendRow, Window

_queries = sql.load(__package__)
WindowKey = tuple[UUID, UUID, datetime]  # tenant, budget, start

DatabaseError = psycopg.Error
BadValue = psycopg.DataError  # a value that the database cannot store, such as a text with NUL
Collision = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that a dead process left open, and the windows it holds from."""

    tenant_id: UUID
    id: UUID
    provider: str
    model: str
    run_id: UUID | None
    budget_ids: list[UUID]
    starts_ats: list[datetime]


@asynccontextmanager
async def together(tx: Tx) -> AsyncIterator[None]:
    """Sends the statements inside in one round trip; none of them may need another one's answer."""
    async with tx.connection.pipeline():
        yield


async def beat(tx: Tx, process: UUID, now: datetime) -> None:
    await _queries.beat.run(tx, id=process, now=now)


async def leave(tx: Tx, process: UUID) -> None:
    await _queries.leave.run(tx, id=process)


async def windows(tx: Tx, subjects: Iterable[tuple[UUID, str, str]], now: datetime) -> list[Window]:
    """Locked, with their newest figures."""
    wanted = [{"tenant_id": tenant, "scope": scope, "subject": subject} for tenant, scope, subject in subjects]
    while True:
        rows = await _queries.windows.rows(tx, subjects=_json(wanted), now=now)
        if all(row[-1] is not None for row in rows):
            return [Window(*row) for row in rows]


async def admit(
    tx: Tx, process: UUID, calls: Sequence[Reservation], holds: Sequence[tuple[Reservation, Window]]
) -> None:
    await _queries.admit.run(
        tx,
        process_id=process,
        calls=_json(
            [
                {
                    "tenant_id": call.tags.tenant,
                    "id": call.id,
                    "principal_id": call.tags.principal,
                    "key_id": call.tags.key,
                    "feature": call.tags.feature,
                    "end_user": call.tags.user,
                    "run_id": call.tags.run,
                    "kind": call.kind,
                    "provider": call.provider,
                    "model": call.model,
                    "streamed": call.streamed,
                    "idempotency": call.tags.idempotency,
                    "reserved": str(call.reserve),
                    "started_at": call.at,
                }
                for call in calls
            ]
        ),
        holds=_json(
            [
                {
                    "tenant_id": window.tenant_id,
                    "call_id": call.id,
                    "budget_id": window.budget_id,
                    "starts_at": window.starts_at,
                    "amount": str(call.reserve),
                }
                for call, window in holds
            ]
        ),
    )


async def lock_windows(tx: Tx, wanted: Iterable[WindowKey]) -> None:
    rows = [{"tenant_id": tenant, "budget_id": budget, "starts_at": start} for tenant, budget, start in set(wanted)]
    await _queries.lock_windows.run(tx, windows=_json(rows))


async def settle(tx: Tx, ended: Sequence[Settlement]) -> None:
    calls, attempts, bound = [], [], []
    for end in ended:
        call = end.admitted.reservation
        key = {"tenant_id": call.tags.tenant, "call_id": call.id}
        calls.append(_call_end(end, call))
        attempts += [_ledger_line(end, call, number, attempt) for number, attempt in enumerate(end.attempts, 1)]
        bound += [{**key, "budget_id": budget, "starts_at": start} for budget, start in end.admitted.windows]
    await _queries.settle.run(tx, calls=_json(calls), attempts=_json(attempts), windows=_json(bound))


def _call_end(end: Settlement, call: Reservation) -> dict[str, Any]:
    last = end.attempts[-1] if end.attempts else call
    return {
        "tenant_id": call.tags.tenant,
        "id": call.id,
        "outcome": end.outcome,
        "at": end.at,
        "provider": last.provider,
        "model": last.model,
        "input_tokens": sum(attempt.usage.input_tokens for attempt in end.attempts),
        "output_tokens": sum(attempt.usage.output_tokens for attempt in end.attempts),
        "cost": str(end.cost),
    }


def _ledger_line(end: Settlement, call: Reservation, number: int, attempt: Attempt) -> dict[str, Any]:
    usage = attempt.usage
    return {
        "tenant_id": call.tags.tenant,
        "call_id": call.id,
        "attempt": number,
        "at": end.at,
        "provider": attempt.provider,
        "model": attempt.model,
        "feature": call.tags.feature,
        "end_user": call.tags.user,
        "key_id": call.tags.key,
        "outcome": attempt.outcome,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "estimated": usage.estimated,
        "cost": str(attempt.cost),
        "seconds": attempt.seconds,
    }


async def dead_processes(tx: Tx, before: datetime, own: UUID) -> list[UUID]:
    return [row[0] for row in await _queries.dead_processes.rows(tx, before=before, own=own)]


async def open_calls(tx: Tx, process: UUID, limit: int) -> list[OpenCall]:
    return await _queries.open_calls.all(tx, OpenCall, process_id=process, limit=limit)


async def abandon(tx: Tx, calls: Sequence[OpenCall], now: datetime) -> set[tuple[UUID, UUID]]:
    wanted = _json([{"tenant_id": call.tenant_id, "id": call.id} for call in calls])
    return {(tenant, call) for tenant, call in await _queries.abandon.rows(tx, calls=wanted, now=now)}


async def forget_process(tx: Tx, process: UUID) -> None:
    await _queries.forget_process.run(tx, id=process)


async def add_budget(tx: Tx, tenant: UUID, id: UUID, budget: NewBudget, now: datetime) -> bool:
    added = await _queries.add_budget.value(
        tx,
        tenant_id=tenant,
        id=id,
        scope=budget.scope.value,
        subject=budget.subject or "",
        amount=budget.limit,
        period=budget.window.value,
        hard=budget.hard,
        now=now,
    )
    return added is not None


async def budgets(tx: Tx, tenant: UUID, after: UUID | None, limit: int, now: datetime) -> list[Budget]:
    return await _queries.budgets.all(tx, _budget, tenant_id=tenant, after=after, limit=limit, now=now)


async def budget(tx: Tx, tenant: UUID, id: UUID, now: datetime) -> Budget | None:
    return await _queries.budget.maybe(tx, _budget, tenant_id=tenant, id=id, now=now)


async def delete_budget(tx: Tx, tenant: UUID, id: UUID) -> bool:
    return await _queries.delete_budget.run(tx, tenant_id=tenant, id=id) == 1


async def spend(tx: Tx, tenant: UUID, by: str, since: datetime | None) -> list[SpendRow]:
    return await _queries.spend.all(tx, SpendRow, tenant_id=tenant, by=by, since=since)


async def calls(tx: Tx, tenant: UUID, after: UUID | None, run: UUID | None, limit: int) -> list[CallRow]:
    return await _queries.calls.all(tx, CallRow, tenant_id=tenant, after=after, run_id=run, limit=limit)


def _budget(**row: object) -> Budget:
    return Budget(**(row | {"scope": Scope(row["scope"]), "window": Period(row["window"])}))  # type: ignore[arg-type]


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    # One parameter for many rows: adapting arrays value by value costs more than the statement itself.
    return orjson.dumps(rows).decode()
