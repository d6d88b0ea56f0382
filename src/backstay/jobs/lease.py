"""A worker's lease: the heartbeat that keeps it, and the end of our own work before others may take it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from ..kernel import telemetry
from ..kernel.db import Database
from ..kernel.ids import new_id
from . import metrics, store

_log = telemetry.log("jobs")


class Lease:
    """One registration after the other. `id` is None while there is none; then nothing may be claimed.

    `ready` is awaited before a new registration (until our own handlers have stopped), `lapsed` is called when the work
    must stop.
    """

    def __init__(
        self,
        db: Database,
        name: str,
        queues: Sequence[str],
        seconds: float,
        *,
        ready: Callable[[], Awaitable[object]],
        lapsed: Callable[[], None],
    ) -> None:
        self._db, self._name, self._queues, self.seconds = db, name, queues, seconds
        self._ready, self._lapsed = ready, lapsed
        self.id: UUID | None = None
        self._former: UUID | None = None
        self._ends = 0.0
        self._next_fence = 0

    def take_fences(self, count: int) -> int:
        """Sets `count` fences aside for a batch of claims; they are the ones after the number returned. They are never
        used again, even if the server forgets the batch in a crash."""
        first, self._next_fence = self._next_fence, self._next_fence + count
        return first

    @property
    def next_fence(self) -> int:
        """Every fence that was set aside lies before this one."""
        return self._next_fence + 1

    async def keep(self) -> None:
        """Registers, and renews the lease three times in its length, for ever."""
        while True:
            began = time.monotonic()
            try:
                if self.id is None:
                    await self._register()
                else:
                    await self._beat(self.id)
            except Exception as error:
                # The lease runs on meanwhile; `watch` stops our work when it is nearly over.
                _log.error("heartbeat failed; trying again", exc_info=error)
                await asyncio.sleep(min(0.5, self.seconds / 10))
                continue
            if self.id is not None:
                await asyncio.sleep(began + self.seconds / 3 - time.monotonic())

    async def watch(self) -> None:
        """Lapses a lease whose heartbeat is late, for ever. The last fifth is for the handlers to stop."""
        while True:
            left = self._ends - 0.2 * self.seconds - time.monotonic()
            if self.id is not None and left <= 0:
                self.lapse("the heartbeat is late")
            await asyncio.sleep(max(0.01, left) if self.id is not None else self.seconds / 10)

    def lapse(self, why: str) -> None:
        """Others may have our jobs now, so our own work stops. Fences refuse what is written anyway."""
        if self.id is None:
            return
        self._former, self.id = self.id, None
        metrics.lapses.inc()
        _log.error("this worker stops its own work", reason=why)
        self._lapsed()

    async def leave(self) -> None:
        """Gives the lease up; what is still held is rescued at once."""
        if self.id is None:
            return
        try:
            async with self._db.system_tx() as tx:
                await store.remove_worker(tx, self.id)
        except Exception as error:
            _log.error("the worker's row is left to expire", exc_info=error)
        self.id = None

    async def _register(self) -> None:
        # Coming back before our own handlers have stopped would let their jobs run twice at once.
        await self._ready()
        began, id = time.monotonic(), new_id()
        async with self._db.system_tx() as tx:
            if self._former is not None:
                await store.remove_worker(tx, self._former)
            number = await store.add_worker(tx, id, self._name, self._queues, self.seconds)
        self._ends = began + self.seconds
        self._next_fence = number << 32
        self.id, self._former = id, None

    async def _beat(self, id: UUID) -> None:
        began = time.monotonic()
        async with self._db.system_tx() as tx:
            alive = await store.beat(tx, id, self.seconds)
        if alive:
            self._ends = began + self.seconds
        elif self.id == id:
            self.lapse("another worker declared this one dead")
