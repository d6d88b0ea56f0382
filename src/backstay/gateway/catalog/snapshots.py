"""Snapshots in memory, refreshed while calls go on: by a wake-up after a change, and every few seconds anyway.

One that cannot be refreshed is served on, and no call waits longer than a moment because of it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from ...kernel import telemetry
from ...kernel.errors import BackstayError
from ...kernel.notify import Notifier
from .snapshot import Snapshot
from .store import DatabaseError

TOPIC = "catalog"
TTL = 10.0  # seconds
TENANTS = 5_000
_PATIENCE, _RETRY_AFTER = 2.0, 1.0  # seconds
_PAST = float("-inf")
_log = telemetry.log("gateway")
_refreshes = telemetry.counter("backstay_gateway_catalog_refreshes_total", "Catalogues read again.", ["outcome"])

Read = Callable[[UUID], Awaitable[Snapshot]]
Revisions = Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, int]]]


@dataclass(slots=True)
class _Held:
    snapshot: Snapshot
    good_until: float


class Snapshots:
    """One for each tenant that has called lately. `now` is a monotonic clock in seconds."""

    def __init__(
        self, read: Read, revisions: Revisions, *, ttl: float = TTL, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._revisions, self._ttl, self._now = read, revisions, ttl, now
        self._held: OrderedDict[UUID, _Held] = OrderedDict()
        self._loading: dict[UUID, asyncio.Task[None]] = {}
        self._changes = 0

    async def of(self, tenant: UUID) -> Snapshot:
        """The tenant's snapshot: every change that this process has committed is in it, those of others soon.

        Raises:
            Unavailable, or an error of the database: it was never read and cannot be now.
        """
        for _ in range(3):  # a change while it is read makes another reading necessary
            held = self._held.get(tenant)
            if held is not None and self._now() < held.good_until:
                self._held.move_to_end(tenant)
                return held.snapshot
            await self._refreshed(tenant, held)
        return self._held[tenant].snapshot

    def forget(self, tenant: UUID | None = None) -> None:
        """What is held of the tenant (None: of all) may be out of date from now on."""
        self._changes += 1
        for one in [tenant] if tenant else list(self._held):
            if (held := self._held.get(one)) is not None:
                held.good_until = _PAST

    async def check(self) -> None:
        """Compares all that is held with the database, in one query."""
        tenants, now, changes = list(self._held), self._now(), self._changes
        if not tenants:
            return
        found = await self._revisions(tenants)
        for tenant in tenants:
            held = self._held.get(tenant)
            if held is None:
                continue
            if held.snapshot.revision != found.get(tenant, 0):
                self.forget(tenant)
            elif changes == self._changes:
                held.good_until = max(held.good_until, now + self._ttl)

    async def keep(self, notifier: Notifier, ending: asyncio.Event) -> None:
        """Checks when a change is told, and now and then, until `ending` is set."""
        stop = asyncio.create_task(ending.wait())
        with notifier.subscribe(TOPIC) as changed:
            while not ending.is_set():
                try:
                    await self.check()
                except (DatabaseError, BackstayError) as error:
                    _log.warning("the gateway's catalogues were not checked; the last ones hold", error=str(error))
                wake = asyncio.create_task(changed.wait(self._ttl / 2))
                await asyncio.wait({stop, wake}, return_when=asyncio.FIRST_COMPLETED)
                wake.cancel()
                await asyncio.gather(wake, return_exceptions=True)
        await stop

    async def _refreshed(self, tenant: UUID, held: _Held | None) -> None:
        """Returns when it was read again, or when it may be served on for a while."""
        task = self._loading.get(tenant)
        if task is None:
            task = self._loading[tenant] = asyncio.create_task(self._load(tenant), name="catalog refresh")
            task.add_done_callback(lambda done: self._loaded(tenant, done))
        try:
            async with asyncio.timeout(None if held is None else _PATIENCE):
                await asyncio.shield(task)
        except (TimeoutError, DatabaseError, BackstayError):
            if held is None:
                raise
            held.good_until = self._now() + _RETRY_AFTER

    async def _load(self, tenant: UUID) -> None:
        changes = self._changes
        snapshot = await self._read(tenant)
        good_until = self._now() + self._ttl if changes == self._changes else _PAST
        self._held[tenant] = _Held(snapshot, good_until)
        self._held.move_to_end(tenant)
        while len(self._held) > TENANTS:
            self._held.popitem(last=False)

    def _loaded(self, tenant: UUID, task: "asyncio.Task[None]") -> None:
        del self._loading[tenant]
        error = None if task.cancelled() else task.exception()
        _refreshes.labels("failed" if error or task.cancelled() else "ok").inc()
        if error is not None:
            _log.warning("a catalogue was not read; the last one holds", tenant=str(tenant), error=repr(error))
