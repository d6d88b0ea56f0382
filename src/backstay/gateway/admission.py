"""Admits calls, extends them and settles them, in group commits: audit, holds, spend and ledger are written together.

Every transaction here locks windows of budgets and limits first, in sorted order, so that no two of them can wait for
each other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

from ..audit import Audit, NewEntry
from ..events import Events
from ..kernel import telemetry
from ..kernel.batch import Batcher
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError, Unavailable
from . import entries, notices, store
from .errors import BudgetExceeded, GatewayError
from .expectation import Expectation
from .models import Admitted, OutputKind, Reservation, Settlement
from .terms import Unit
from .windows import Needs, Room, Taken, Window, WindowKey, limit_headers, no_bound, no_more, refusal, refusing

Item = TypeVar("Item")
Result = TypeVar("Result")
_log = telemetry.log("gateway")
_RETRY_FIRST, _RETRY_MOST = 0.05, 2.0
_PATIENCE = 10.0  # seconds that a caller waits for its settlement
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Extension:
    """What a running call wants to hold beyond what it holds already."""

    call: Admitted
    usd: Decimal
    tokens: int

    @property
    def needs(self) -> Needs:
        return {Unit.USD: self.usd, Unit.TOKENS: self.tokens}


class Admission:
    """The gateway's transactions of one process. `submit`-style calls of many tasks share them."""

    def __init__(
        self, db: Database, clock: Clock, audit: Audit, events: Events, process: UUID, lease: timedelta
    ) -> None:
        self._db, self._clock, self._audit, self._events = db, clock, audit, events
        self._process, self._lease = process, lease
        self._last_beat: datetime | None = None
        self._expectation = Expectation(db, clock)
        self._admissions: Batcher[Reservation, Admitted] = Batcher("admit", self._admit_all)
        self._extensions: Batcher[_Extension, None] = Batcher("extend", self._extend_all)
        self._settlements: Batcher[Settlement, None] = Batcher("settle", self._settle_patiently, patience=_PATIENCE)
        self._stopping = asyncio.Event()

    def admit(
        self, call: Reservation, then: Callable[[Admitted | Exception], None] | None = None
    ) -> "asyncio.Future[Admitted]":
        """Records the intent and takes the holds. A call that is refused has consumed nothing, of no budget or limit.
        `then` is told what came of it, also when the future was cancelled.

        Fails with BudgetExceeded or RateLimited, or with Unavailable if it cannot be written.
        """
        return self._admissions.submit(call, then)

    async def expected_output(self, kind: OutputKind) -> int | None:
        """Within how many output tokens an answer is likely to stay; None when there were none yet.

        A call in the mode `expected` reserves for that many, and is extended before it writes more.
        """
        return await self._expectation.output(kind)

    async def extend(self, call: Admitted, usd: Decimal, tokens: int = 0) -> None:
        """Takes more from every window that `call` holds from: all of it, or nothing when one has no room.

        Raises:
            BudgetExceeded, RateLimited: which budget or limit has no room; the call keeps what it holds.
            Unavailable: it cannot be written, or the call was given up meanwhile and holds nothing any more.
        """
        if call.windows and (usd or tokens):
            await self._extensions.submit(_Extension(call, usd, tokens))

    def settle(self, end: Settlement, then: Callable[[Exception | None], None] | None = None) -> "asyncio.Future[None]":
        """Writes how a call ended. While the database is away it goes on trying until the gateway stops; who waits for
        it gets a TimeoutError after ten seconds. `then` is told when it is written, or that it could not be."""
        return self._settlements.submit(end, then)

    def settle_later(self, end: Settlement, then: Callable[[Exception | None], None]) -> None:
        """As `settle`, where nobody waits."""
        self._settlements.post(end, then)

    async def beat(self) -> None:
        """Tells the other processes that this one lives."""
        now = self._clock.now()
        async with self._db.system_tx() as tx:
            await store.beat(tx, self._process, now)
        self._last_beat = now

    async def stop(self) -> None:
        """Writes what waits. What the database does not take is lost to this process and left to the sweeper."""
        await self._admissions.stop()
        await self._expectation.stop()
        await self._extensions.stop()
        self._stopping.set()
        await self._settlements.stop()

    async def _admit_all(self, calls: list[Reservation]) -> list[Admitted | Exception]:
        message = "the call could not be recorded, so it was not made; try again"
        return await _written(self._admit_in_one, calls, "calls refused: they cannot be recorded", message)

    async def _admit_in_one(self, calls: list[Reservation]) -> list[Admitted | Exception]:
        now = self._clock.now()
        bound_by = [call.bound_by for call in calls]
        scopes: dict[Hashable, list[store.Subject]] = {}
        for call, alike in zip(calls, bound_by, strict=True):
            if alike not in scopes:
                scopes[alike] = call.scopes()
        try:
            return await self._admit_within(calls, bound_by, scopes, now)
        except store.WindowMissing:
            async with self._db.system_tx() as tx:
                await store.begin_windows(tx, _subjects(scopes), now)
            return await self._admit_within(calls, bound_by, scopes, now)

    async def _admit_within(
        self,
        calls: list[Reservation],
        bound_by: list[Hashable],
        scopes: Mapping[Hashable, list[store.Subject]],
        now: datetime,
    ) -> list[Admitted | Exception]:
        beating = self._last_beat is None or now - self._last_beat > self._lease / 3
        async with self._db.system_tx(indexed=True, pipelined=True) as tx:
            found = _by_subject(await store.windows(tx, _subjects(scopes), now))
            rooms = {
                alike: Room.of([window for subject in subjects for window in found.get(subject, ())])
                for alike, subjects in scopes.items()
            }
            batch = _Batch([], [], [], [])
            results: list[Admitted | Exception] = []
            for call, alike in zip(calls, bound_by, strict=True):
                closed = next((run for run in call.tags.purses if not found.get(_purse(call, run))), None)
                results.append(batch.decide(call, rooms[alike], now) if closed is None else batch.shut(call, closed))
            await self._audit.record_many(tx, batch.entries)
            if batch.admitted:
                await store.admit(tx, self._process, batch.admitted, batch.holds, batch.requests)
            if beating:
                await store.beat(tx, self._process, now)
        if beating:
            self._last_beat = now
        return results

    async def _extend_all(self, wanted: list[_Extension]) -> list[Exception | None]:
        message = "the running call could not be given more room; what it holds, it keeps"
        return await _written(self._extend_in_one, wanted, "calls not extended", message)

    async def _extend_in_one(self, wanted: list[_Extension]) -> list[Exception | None]:
        results: list[GatewayError | None] = []
        async with self._db.system_tx() as tx:
            found = await store.held_windows(tx, _keys(extension.call for extension in wanted))
            windows = {window.key: window for window in found}
            granted: list[_Extension] = []
            holds: list[Taken] = []
            for extension in wanted:
                taken = _more(extension, windows)
                results.append(taken if isinstance(taken, GatewayError) else None)
                if not isinstance(taken, GatewayError):
                    granted.append(extension)
                    holds += taken
            calls = [(extension.call.reservation, extension.usd) for extension in granted]
            running = await store.extend(tx, calls, holds) if calls else set()
        return [
            result if result is not None or extension.call.reservation.id in running else _given_up()
            for extension, result in zip(wanted, results, strict=True)
        ]

    async def _settle_patiently(self, ends: list[Settlement]) -> list[Exception | None]:
        wait = _RETRY_FIRST
        while True:
            try:
                async with self._db.system_tx(indexed=True, pipelined=True) as tx:
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
        windows = _keys(end.admitted for end in ends)
        if windows:
            await store.lock_windows(tx, windows)
        reached = await store.settle(tx, ends, notices.THRESHOLDS)
        await self._audit.record_many(tx, [entries.finished(end) for end in ends])
        if budgets := await reached():
            await notices.give(self._events, tx, budgets)


@dataclass(slots=True)
class _Batch:
    """What one admission transaction will write."""

    admitted: list[Reservation]
    holds: list[Taken]
    requests: list[Window]
    entries: list[NewEntry]

    def shut(self, call: Reservation, run: UUID) -> GatewayError:
        """Refuses a call for a run whose budget is gone: nothing would bound it any more."""
        self.entries.append(entries.closed(call, run))
        return BudgetExceeded(f"the budget of the run {run} is closed: it has ended, and with it what it may spend")

    def decide(self, call: Reservation, room: Room, now: datetime) -> Admitted | GatewayError:
        """Takes what `call` needs from all windows of `room`, or nothing when one of them refuses."""
        windows = room.windows
        needs: Needs = {Unit.USD: call.reserve, Unit.TOKENS: call.tokens, Unit.REQUESTS: 1, Unit.CONCURRENCY: 1}
        hard = next((one for one in windows if one.unit == Unit.USD and one.hard), None) if call.unbounded else None
        if hard is not None and call.unbounded:
            self.entries.append(entries.refused(call, hard))
            return no_bound(hard, call.unbounded)
        full = refusing(windows, needs, now)
        if full is not None:
            self.entries.append(entries.refused(call, full))
            return refusal(full, needs, now, limit_headers(windows, now))
        for window in windows:
            window.take(needs)
        self.admitted.append(call)
        self.entries.append(entries.started(call))
        self.holds += [Taken(call, window, needs[window.unit]) for window in room.held]
        self.requests += room.counted
        return Admitted(call, room.keys, limit_headers(windows, now))


async def _written(
    write: Callable[[list[Item]], Awaitable[list[Result | Exception]]], items: list[Item], problem: str, message: str
) -> list[Result | Exception]:
    """What `write` returns; Unavailable for each item when the database does not take them."""
    for left in reversed(range(_TRIES)):
        try:
            return await write(items)
        except store.BadValue:
            raise  # one of them holds what the database cannot store; the batcher finds out which
        except (store.DatabaseError, BackstayError) as error:
            if left and isinstance(error, store.Collision):
                continue  # nothing was written; the other side has finished by now
            _log.error(problem, calls=len(items), error=str(error))
            break
    return [Unavailable(message) for _ in items]


def _by_subject(windows: Sequence[Window]) -> dict[tuple[UUID, str, str], list[Window]]:
    found: dict[tuple[UUID, str, str], list[Window]] = {}
    for window in windows:
        found.setdefault((window.tenant_id, window.scope, window.subject), []).append(window)
    return found


def _purse(call: Reservation, run: UUID) -> tuple[UUID, str, str]:
    return call.tags.tenant, "run", str(run)


def _subjects(scopes: Mapping[Hashable, list[store.Subject]]) -> set[store.Subject]:
    return {subject for subjects in scopes.values() for subject in subjects}


def _keys(calls: Iterable[Admitted]) -> set[WindowKey]:
    shared = {id(call.windows): call for call in calls}  # by identity: telling windows apart by value takes long
    return {(call.reservation.tags.tenant, budget, start) for call in shared.values() for budget, start in call.windows}


def _more(extension: _Extension, windows: dict[WindowKey, Window]) -> list[Taken] | GatewayError:
    """Takes what the call wants from the windows it holds from, or says which of them has no room."""
    needs, call = extension.needs, extension.call.reservation
    ours = [
        window
        for budget, start in extension.call.windows
        if (window := windows.get((call.tags.tenant, budget, start))) is not None and needs.get(Unit(window.unit))
    ]
    full = next((window for window in ours if not window.room_for(needs)), None)
    if full is not None:
        return no_more(full, needs)
    for window in ours:
        window.take(needs)
    return [Taken(call, window, needs[window.unit]) for window in ours]


def _given_up() -> Unavailable:
    return Unavailable("the call was given up while its process was silent, and holds nothing any more")
