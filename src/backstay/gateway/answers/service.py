"""Finds, keeps and shares answers. The pipeline asks for a flight, looks, and says what came of it:

async with answers.flight(tenant, question, policy, embedder) as flight:
    if (hit := await flight.find()) is None:
        …ask the provider, send, settle…
        await flight.keep(body, by="openai:gpt-5.2", stops=[Stop.END])
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self
from uuid import UUID

from ...kernel import telemetry
from ...kernel.cache import Cache
from ...kernel.clock import Clock
from ...kernel.crypto import Vault
from ...kernel.db import Database
from ...kernel.errors import BackstayError
from ..dialogue import Stop
from . import store
from .flights import Flights, Seat
from .models import Embedder, Hit, lasting
from .near import Nearby
from .policy import CachePolicy
from .question import Question
from .seal import Seal
from .shelf import Shelf

PATIENCE = 30.0  # seconds that one waits for another's answer before it asks by itself
_BATCH = 500
_SWEEP_EVERY, _MORE_AFTER = 60.0, 0.1  # seconds
_log = telemetry.log("answers")
_looked = telemetry.counter("backstay_gateway_cache_lookups_total", "Look-ups in the answer cache.", ["found"])
_offered = telemetry.counter("backstay_gateway_cache_offers_total", "Answers offered to the answer cache.", ["outcome"])


class Answers:
    """The answer cache of one process: exact answers in the kernel's cache, those found by meaning in a table.

    `patience`: seconds that a request waits for the same one's answer before it asks by itself.
    """

    def __init__(self, db: Database, clock: Clock, vault: Vault, cache: Cache, *, patience: float = PATIENCE) -> None:
        self._db, self._clock, self._vault, self._cache = db, clock, vault, cache
        self._patience = patience
        self._flights: Flights[Hit] = Flights()

    def flight(
        self, tenant: UUID, question: Question, policy: CachePolicy, embedder: Embedder | None = None
    ) -> "Flight":
        """One request's way past the cache. With caching off it finds nothing and keeps nothing.

        `embedder` makes vectors at the tenant's expense; without one, only the same request's answer is found.

        Raises:
            Invalid: the request holds what JSON cannot (422).
        """
        if not policy.on or not question.repeatable:
            return Flight(None, None, policy, self._patience)
        seal = Seal(self._vault, tenant)
        key = seal.digest("whole", question.whole())
        near = None
        if embedder is not None and policy.semantic is not None:
            near = Nearby(self._db, tenant, seal, question, embedder)
        shelf = Shelf(tenant, key, policy, seal, near, self._cache, self._clock)
        return Flight(shelf, self._flights.seat((tenant, key, policy)), policy, self._patience)

    async def sweep(self, limit: int = _BATCH) -> int:
        """Deletes answers whose time has passed; returns how many."""
        async with self._db.system_tx() as tx:
            return await store.sweep(tx, self._clock.now(), limit)

    async def tend(self, ending: asyncio.Event) -> None:
        """Sweeps now and then until `ending` is set; every process may run it."""
        while not ending.is_set():
            try:
                full = await self.sweep() == _BATCH
            except (store.DatabaseError, BackstayError) as error:
                _log.warning("answers whose time has passed stay until the next round", error=str(error))
                full = False
            with suppress(TimeoutError):
                async with asyncio.timeout(_MORE_AFTER if full else _SWEEP_EVERY):
                    await ending.wait()


class Flight:
    """Leave it in every case (`async with`): others may wait for it. Without a shelf it does nothing."""

    def __init__(self, shelf: Shelf | None, seat: Seat[Hit] | None, policy: CachePolicy, patience: float) -> None:
        self._shelf, self._seat = shelf, seat
        self._reads, self._patience = policy.reads, patience

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seat is not None:
            self._seat.leave()

    async def find(self) -> Hit | None:
        """An answer that need not be asked for: another's who asks the same now, or one that was kept.

        May wait for that other one; cancel it with the request. None: ask the provider.
        """
        if self._shelf is None or self._seat is None or not self._reads:
            return None
        hit = await self._seat.board(self._patience)
        # Whoever waited in vain does not look: the one it waited for has looked already.
        if hit is None and self._seat.leads:
            hit = await self._shelf.find()
            if hit is not None:
                self._seat.land(hit)
        _looked.labels(hit.found if hit else "nothing").inc()
        return hit

    async def keep(self, body: bytes, *, by: str, stops: Sequence[Stop | None], tools: bool = False) -> bool:
        """Shares an answer with those who wait and keeps it. Call it once the answer is whole and its call is settled.

        `body`: the whole answer in the client's format. `by`: `provider:model`. `stops`, `tools`: see `lasting`; an
        answer that does not last is neither shared nor kept, and those who wait ask for themselves. Returns whether it
        was kept.
        """
        if self._shelf is None or self._seat is None:
            return False
        if not lasting(stops, tools):
            self._seat.divert()
            _offered.labels("not_lasting").inc()
            return False
        self._seat.land(Hit(body, by, "shared"))
        try:
            kept = await self._shelf.keep(body, by)
        finally:
            self._seat.leave()
        _offered.labels("kept" if kept else "lost").inc()
        return kept
