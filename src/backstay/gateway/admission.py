"""Admits calls and settles them, in group commits: audit, holds, spend and ledger are written together.

Every transaction here locks budget windows first, in sorted order, so that no two of them can wait for each other.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from ..audit import Audit, NewEntry
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError, Unavailable
from . import store
from .batch import Batcher
from .errors import BudgetExceeded
from .models import Admitted, Period, Reservation, Settlement, Window

_log = telemetry.log("gateway")
_RETRY_FIRST, _RETRY_MOST = 0.05, 2.0


class Admission:
    """The gateway's transactions of one process. `submit`-style calls of many tasks share them."""

    def __init__(self, db: Database, clock: Clock, audit: Audit, process: UUID, lease: timedelta) -> None:
        self._db, self._clock, self._audit = db, clock, audit
        self._process, self._lease = process, lease
        self._last_beat: datetime | None = None
        self._admissions: Batcher[Reservation, Admitted] = Batcher("admit", self._admit_all)
        self._settlements: Batcher[Settlement, None] = Batcher("settle", self._settle_patiently)
        self._stopping = asyncio.Event()

    def admit(self, call: Reservation) -> "asyncio.Future[Admitted]":
        """Records the intent and takes the holds; fails with BudgetExceeded, or Unavailable if it cannot be written."""
        return self._admissions.submit(call)

    def settle(self, end: Settlement) -> "asyncio.Future[None]":
        """Writes how a call ended. While the database is away it goes on trying until the gateway stops."""
        return self._settlements.submit(end)

    async def beat(self) -> None:
        """Tells the other processes that this one lives."""
        now = self._clock.now()
        async with self._db.system_tx() as tx:
            await store.beat(tx, self._process, now)
        self._last_beat = now

    async def stop(self) -> None:
        """Writes what waits. What the database does not take is lost to this process and left to the sweeper."""
        await self._admissions.stop()
        self._stopping.set()
        await self._settlements.stop()

    async def _admit_all(self, calls: list[Reservation]) -> list[Admitted | Exception]:
        try:
            try:
                return await self._admit_in_one(calls)
            except store.Collision:
                return await self._admit_in_one(calls)  # nothing was written; the other side has finished by now
        except store.BadValue:
            raise  # one of them holds what the database cannot store; the batcher finds out which
        except (store.DatabaseError, BackstayError) as error:
            _log.error("calls refused: their audit entries cannot be written", calls=len(calls), error=str(error))
            refused = Unavailable("the call could not be recorded, so it was not made; try again")
            return [refused for _ in calls]

    async def _admit_in_one(self, calls: list[Reservation]) -> list[Admitted | Exception]:
        now = self._clock.now()
        results: list[Admitted | Exception] = []
        beating = self._last_beat is None or now - self._last_beat > self._lease / 3
        async with self._db.system_tx() as tx:
            wanted = {subject for call in calls for subject in call.scopes()}
            bounds = _by_subject(await store.windows(tx, wanted, now))
            admitted: list[Reservation] = []
            holds: list[tuple[Reservation, Window]] = []
            entries: list[NewEntry] = []
            for call in calls:
                windows = [window for subject in call.scopes() for window in bounds.get(subject, ())]
                full = next((window for window in windows if not window.room_for(call.reserve)), None)
                if full is not None:
                    results.append(_refusal(full, call))
                    entries.append(_refused_entry(call, full))
                    continue
                for window in windows:
                    window.held += call.reserve
                    holds.append((call, window))
                admitted.append(call)
                entries.append(_started_entry(call))
                results.append(Admitted(call, tuple((window.budget_id, window.starts_at) for window in windows)))
            async with store.together(tx):
                await self._audit.record_many(tx, entries)
                if admitted:
                    await store.admit(tx, self._process, admitted, holds)
                if beating:
                    await store.beat(tx, self._process, now)
        if beating:
            self._last_beat = now
        return results

    async def _settle_patiently(self, ends: list[Settlement]) -> list[Exception | None]:
        wait = _RETRY_FIRST
        while True:
            try:
                async with self._db.system_tx() as tx:
                    await self._settle(tx, ends)
                return [None for _ in ends]
            except store.BadValue:
                raise
            except (store.DatabaseError, BackstayError) as error:
                _log.error("calls not settled yet", calls=len(ends), error=str(error), retry_in=wait)
                if self._stopping.is_set():
                    raise
            try:
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
            except TimeoutError:
                wait = min(wait * 2, _RETRY_MOST)

    async def _settle(self, tx: Tx, ends: Sequence[Settlement]) -> None:
        calls = [end.admitted.reservation for end in ends]
        windows = [
            (call.tags.tenant, budget, start)
            for call, end in zip(calls, ends, strict=True)
            for budget, start in end.admitted.windows
        ]
        async with store.together(tx):
            if windows:
                await store.lock_windows(tx, windows)
            await store.settle(tx, ends)
            await self._audit.record_many(tx, [_finished_entry(end) for end in ends])


def _by_subject(windows: Sequence[Window]) -> dict[tuple[UUID, str, str], list[Window]]:
    found: dict[tuple[UUID, str, str], list[Window]] = {}
    for window in windows:
        found.setdefault((window.tenant_id, window.scope, window.subject), []).append(window)
    return found


def _refusal(window: Window, call: Reservation) -> BudgetExceeded:
    resets = Period(window.period).resets_at(window.starts_at)
    of = f" of {window.scope} {window.subject}" if window.subject else " of the tenant"
    held = f" and {window.held:f} held by running calls" if window.held else ""
    return BudgetExceeded(
        f"the budget{of}, {window.amount:f} USD a {window.period}, has no room for this call: {window.spent:f} USD are "
        f"spent{held}, the call may cost {call.reserve:f}. "
        + (f"It resets at {resets.isoformat()}." if resets else "It never resets.")
    )


def _entry(call: Reservation, action: str, at: datetime, **more: object) -> NewEntry:
    return NewEntry(
        tenant=call.tags.tenant,
        actor_id=call.tags.principal,
        actor=call.tags.actor,
        action=action,
        resource=f"model:{call.provider}:{call.model}",
        at=at,
        run=call.tags.run,
        call=call.id,
        subject=call.tags.user,
        **more,  # type: ignore[arg-type]
    )


def _started_entry(call: Reservation) -> NewEntry:
    return _entry(
        call,
        "model.call.started",
        call.at,
        payload={"request": call.payload},
        metadata={
            "kind": call.kind,
            "feature": call.tags.feature,
            "key": call.tags.key,
            "streamed": call.streamed,
            "reserved": str(call.reserve),
        },
    )


def _refused_entry(call: Reservation, window: Window) -> NewEntry:
    metadata = {"feature": call.tags.feature, "budget": window.budget_id, "reserve": str(call.reserve)}
    return _entry(call, "model.call.refused", call.at, outcome="refused", metadata=metadata)


def _finished_entry(end: Settlement) -> NewEntry:
    attempts = [
        {
            "provider": attempt.provider,
            "model": attempt.model,
            "outcome": attempt.outcome,
            "input_tokens": attempt.usage.input_tokens,
            "output_tokens": attempt.usage.output_tokens,
            "cached_tokens": attempt.usage.cached_tokens,
            "estimated": attempt.usage.estimated,
            "cost": str(attempt.cost),
            "seconds": round(attempt.seconds, 6),
        }
        for attempt in end.attempts
    ]
    return _entry(
        end.admitted.reservation,
        "model.call.finished",
        end.at,
        outcome=end.outcome,
        payload=end.payload or None,
        metadata={"feature": end.admitted.reservation.tags.feature, "cost": str(end.cost), "attempts": attempts},
    )
