"""Rows in, models out: one function per query, no decisions."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import psycopg

from ..kernel import json, sql
from ..kernel.db import Tx
from .models import (
    Attempt,
    CallRow,
    Mode,
    OutputKind,
    Reservation,
    Savings,
    Settlement,
    SpendFilter,
    SpendLine,
    SpendRow,
)
from .terms import Bound, NewBudget, NewLimit, Purse, Unit
from .windows import Taken, Window, WindowKey

_queries = sql.load(__package__)

DatabaseError = psycopg.Error
BadValue = psycopg.DataError  # a value that the database cannot store, such as a text with NUL
Subject = tuple[UUID, str, str]  # tenant, scope, and who or what it is in the scope
Collision = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class WindowMissing(psycopg.errors.SerializationFailure):
    """A window has to be made first, in a transaction of its own: this one holds locks that come after it."""


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


@dataclass(frozen=True, slots=True)
class Reached:
    """A budget whose spend went past `told` percent, of which was told before, and is at `reached` or more now."""

    tenant_id: UUID
    budget_id: UUID
    scope: str
    subject: str | None
    amount: Decimal
    period: str
    hard: bool
    starts_at: datetime
    spent: Decimal
    told: int
    reached: int


@asynccontextmanager
async def together(tx: Tx) -> AsyncIterator[None]:
    """Sends the statements inside in one round trip; none of them may need another one's answer."""
    async with tx.connection.pipeline():
        yield


async def beat(tx: Tx, process: UUID, now: datetime) -> None:
    await _queries.beat.run(tx, id=process, now=now)


async def leave(tx: Tx, process: UUID) -> None:
    await _queries.leave.run(tx, id=process)


async def windows(tx: Tx, subjects: Iterable[Subject], now: datetime) -> list[Window]:
    """Locked, with their newest figures.

    Raises:
        WindowMissing: one of them has not begun; see `begin_windows`.
    """
    rows = await _queries.windows.rows(tx, subjects=_subjects(subjects), now=now)
    if any(row[-1] is None for row in rows):
        raise WindowMissing("a window has not begun")
    return [Window(*row) for row in rows]


async def begin_windows(tx: Tx, subjects: Iterable[Subject], now: datetime) -> None:
    await _queries.begin_windows.run(tx, subjects=_subjects(subjects), now=now)


def _subjects(subjects: Iterable[Subject]) -> json.Encoded:
    return _json([{"tenant_id": tenant, "scope": scope, "subject": subject} for tenant, scope, subject in subjects])


async def admit(
    tx: Tx, process: UUID, calls: Sequence[Reservation], holds: Sequence[Taken], requests: Sequence[Window]
) -> None:
    """`requests`: a window of a limit of requests for each call that it counts."""
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
                    "route": call.route,
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
                    "tenant_id": taken.window.tenant_id,
                    "call_id": taken.call.id,
                    "budget_id": taken.window.budget_id,
                    "starts_at": taken.window.starts_at,
                    "amount": str(taken.amount),
                }
                for taken in holds
            ]
        ),
        requests=_keys(window.key for window in requests),
    )


async def held_windows(tx: Tx, wanted: Iterable[WindowKey]) -> list[Window]:
    """Locked, with their newest figures; those of budgets that were deleted meanwhile are missing."""
    return [Window(*row) for row in await _queries.held_windows.rows(tx, windows=_keys(wanted))]


async def extend(tx: Tx, calls: Iterable[tuple[Reservation, Decimal]], holds: Iterable[Taken]) -> set[UUID]:
    """Returns the calls that still run; the others hold nothing any more."""
    rows = await _queries.extend.rows(
        tx,
        calls=_json([{"tenant_id": call.tags.tenant, "id": call.id, "usd": str(usd)} for call, usd in calls]),
        holds=_json(
            [
                {
                    "tenant_id": taken.window.tenant_id,
                    "call_id": taken.call.id,
                    "budget_id": taken.window.budget_id,
                    "amount": str(taken.amount),
                }
                for taken in holds
            ]
        ),
    )
    return {call for _, call in rows}


async def lock_windows(tx: Tx, wanted: Iterable[WindowKey]) -> None:
    await _queries.lock_windows.run(tx, windows=_keys(wanted))


async def settle(
    tx: Tx, ended: Sequence[Settlement], thresholds: Sequence[int]
) -> Callable[[], Awaitable[list[Reached]]]:
    """Returns what reads the budgets that reached one of `thresholds` (percent), to be called after the round trip."""
    calls, attempts, bound, expected = [], [], [], []
    for end in ended:
        call = end.admitted.reservation
        key = {"tenant_id": call.tags.tenant, "call_id": call.id}
        calls.append(_call_end(end, call))
        attempts += [_ledger_line(end, call, number, attempt) for number, attempt in enumerate(end.attempts, 1)]
        bound += [
            {**key, "budget_id": budget, "starts_at": start, "route": call.route}
            for budget, start in end.admitted.windows
        ]
        if call.mode is Mode.EXPECTED and end.outcome == "ok":
            # Answers that were cut say nothing about how long such answers are.
            expected.append({**key, "feature": call.tags.feature, "provider": call.provider, "model": call.model})
    return await _queries.settle.send(
        tx,
        Reached,
        calls=_json(calls),
        attempts=_json(attempts),
        windows=_json(bound),
        expected=_json(expected),
        thresholds=list(thresholds),
        count=len(calls),
    )


async def expected_outputs(tx: Tx, kinds: Iterable[OutputKind]) -> dict[OutputKind, int]:
    wanted = [
        {"tenant_id": kind.tenant, "feature": kind.feature, "provider": kind.provider, "model": kind.model}
        for kind in kinds
    ]
    rows = await _queries.expected_outputs.rows(tx, kinds=_json(wanted))
    return {OutputKind(*kind): tokens for *kind, tokens in rows}


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
        "cached": end.cached,
        "saved_by_cache": str(end.saved_by_cache),
        "saved_by_route": str(end.saved_by_route),
        "rescued": end.rescued,
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
        "written_tokens": usage.written_tokens,
        "written_hour_tokens": usage.written_hour_tokens,
        "input_audio_tokens": usage.input_audio_tokens,
        "output_audio_tokens": usage.output_audio_tokens,
        "input_image_tokens": usage.input_image_tokens,
        "output_image_tokens": usage.output_image_tokens,
        "web_searches": usage.web_searches,
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


async def add_budget(tx: Tx, tenant: UUID, id: UUID, new: NewBudget | NewLimit, now: datetime) -> bool:
    added = await _queries.add_budget.value(
        tx,
        tenant_id=tenant,
        id=id,
        scope=new.scope.value,
        subject=new.subject or "",
        unit=new.unit.value,
        amount=new.limit,
        period=new.period.value,
        hard=new.hard,
        now=now,
    )
    return added is not None


async def close_purse(tx: Tx, tenant: UUID, run: UUID) -> Purse | None:
    return await _queries.close_purse.maybe(tx, Purse, tenant_id=tenant, run_id=run)


async def budgets(
    tx: Tx, tenant: UUID, units: Sequence[Unit], after: UUID | None, limit: int, now: datetime
) -> list[Bound]:
    return await _queries.budgets.all(tx, Bound, tenant_id=tenant, units=list(units), after=after, limit=limit, now=now)


async def budget(tx: Tx, tenant: UUID, units: Sequence[Unit], id: UUID, now: datetime) -> Bound | None:
    return await _queries.budget.maybe(tx, Bound, tenant_id=tenant, units=list(units), id=id, now=now)


async def change_budget(
    tx: Tx,
    tenant: UUID,
    units: Sequence[Unit],
    id: UUID,
    amount: Decimal | int,
    thresholds: Sequence[int],
    now: datetime,
) -> bool:
    changed = await _queries.change_budget.value(
        tx, tenant_id=tenant, units=list(units), id=id, amount=amount, thresholds=list(thresholds), now=now
    )
    return changed is not None


async def delete_budget(tx: Tx, tenant: UUID, units: Sequence[Unit], id: UUID) -> bool:
    return await _queries.delete_budget.run(tx, tenant_id=tenant, units=list(units), id=id) == 1


async def spend(tx: Tx, tenant: UUID, by: str, only: SpendFilter) -> list[SpendRow]:
    return await _queries.spend.all(
        tx,
        SpendRow,
        tenant_id=tenant,
        by=by,
        since=only.since,
        until=only.until,
        feature=only.feature,
        end_user=only.user,
        key_id=only.key,
        target=only.model,
    )


async def calls(tx: Tx, tenant: UUID, after: UUID | None, run: UUID | None, limit: int) -> list[CallRow]:
    return await _queries.calls.all(tx, CallRow, tenant_id=tenant, after=after, run_id=run, limit=limit)


async def call(tx: Tx, tenant: UUID, id: UUID) -> CallRow | None:
    return await _queries.call.maybe(tx, CallRow, tenant_id=tenant, id=id)


async def savings(tx: Tx, tenant: UUID, since: datetime | None, until: datetime | None) -> Savings:
    return await _queries.savings.one(tx, Savings, tenant_id=tenant, since=since, until=until)


def _keys(windows: Iterable[WindowKey]) -> json.Encoded:
    return _json([{"tenant_id": tenant, "budget_id": budget, "starts_at": start} for tenant, budget, start in windows])


def _json(rows: Sequence[Mapping[str, Any]]) -> json.Encoded:
    # One parameter for many rows: adapting arrays value by value costs more than the statement itself.
    return json.Encoded(orjson.dumps(rows))


def spend_lines(
    tx: Tx, tenant: UUID, by: Sequence[str], since: datetime, until: datetime
) -> AsyncGenerator[SpendLine, None]:
    return _queries.spend_lines.stream(tx, SpendLine, tenant_id=tenant, by=list(by), since=since, until=until)


async def prune_calls(tx: Tx, tenant: UUID, before: datetime, limit: int) -> int:
    return await _queries.prune_calls.run(tx, tenant_id=tenant, before=before, limit=limit)
