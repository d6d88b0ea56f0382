"""Gives back what dead processes held: their calls are marked abandoned, their holds released, with an audit entry."""

import asyncio
from datetime import timedelta
from uuid import UUID

from ..audit import Audit, NewEntry
from ..kernel import telemetry
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.errors import BackstayError
from . import store

_log = telemetry.log("gateway")
_abandoned = telemetry.counter("backstay_gateway_calls_abandoned_total", "Open calls found of dead processes.")
_SYSTEM = UUID(int=0)
_GROUP = 200


class Sweeper:
    """One in every process; any of them sweeps for all."""

    def __init__(self, db: Database, clock: Clock, audit: Audit, process: UUID, lease: timedelta) -> None:
        self._db, self._clock, self._audit = db, clock, audit
        self._process, self._lease = process, lease

    async def run(self, stop: asyncio.Event) -> None:
        """Sweeps once a lease until `stop`."""
        while not stop.is_set():
            try:
                await self.sweep()
            except (store.DatabaseError, BackstayError) as error:
                _log.warning("sweep failed; the next one tries again", error=str(error))
            try:
                async with asyncio.timeout(self._lease.total_seconds()):
                    await stop.wait()
            except TimeoutError:
                continue

    async def sweep(self) -> int:
        """Releases the holds of every process that has been silent for a lease. Returns how many calls were open."""
        count = 0
        while (swept := await self._sweep_some()) is not None:
            count += swept
        if count:
            _abandoned.inc(count)
            _log.warning("calls of dead processes abandoned, their holds released", calls=count)
        return count

    async def _sweep_some(self) -> int | None:
        """One transaction's worth; None when no process is dead."""
        async with self._db.system_tx() as tx:
            dead = await store.dead_processes(tx, self._clock.now() - self._lease, self._process)
            if not dead:
                return None
            return await self._bury(tx, dead[0])

    async def _bury(self, tx: Tx, process: UUID) -> int:
        calls = await store.open_calls(tx, process, _GROUP)
        if not calls:
            await store.forget_process(tx, process)
            return 0
        windows = [
            (call.tenant_id, budget, start)
            for call in calls
            for budget, start in zip(call.budget_ids, call.starts_ats, strict=True)
        ]
        if windows:
            await store.lock_windows(tx, windows)
        now = self._clock.now()
        gone = await store.abandon(tx, calls, now)
        await self._audit.record_many(
            tx,
            [
                NewEntry(
                    tenant=call.tenant_id,
                    actor_id=_SYSTEM,
                    actor="gateway sweeper",
                    action="model.call.abandoned",
                    resource=f"model:{call.provider}:{call.model}",
                    at=now,
                    outcome="abandoned",
                    run=call.run_id,
                    call=call.id,
                    metadata={"process": process},
                )
                for call in calls
                if (call.tenant_id, call.id) in gone
            ],
        )
        return len(gone)
