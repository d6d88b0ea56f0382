"""The cache in an unlogged table: no WAL for it, and empty after a crash, as a cache may be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from uuid import UUID

import psycopg

from . import sql, telemetry
from .cache import Away, Entry
from .clock import Clock
from .db import Database, Tx
from .errors import BackstayError, Unavailable

_BATCH = 1000
_PRUNE_EVERY, _MORE_AFTER = 60.0, 0.1  # seconds
_log = telemetry.log("cache")
_queries = sql.load(__package__)


class PostgresStore:
    """Entries as rows, behind the fence of their tenant."""

    name = "postgres"

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock
        self._told = False

    async def find(self, tenant: UUID, key: str, now: datetime) -> Entry | None:
        async with self._tx(tenant) as tx:
            return await _queries.cached.maybe(tx, Entry, tenant_id=tenant, key=key, now=now)

    async def keep(self, tenant: UUID, key: str, entry: Entry, now: datetime) -> None:
        async with self._tx(tenant) as tx:
            await _queries.keep_cached.run(
                tx, tenant_id=tenant, key=key, value=entry.value, expires_at=entry.expires_at
            )

    async def drop(self, tenant: UUID, key: str) -> None:
        async with self._tx(tenant) as tx:
            await _queries.drop_cached.run(tx, tenant_id=tenant, key=key)

    async def count(self, tenant: UUID, key: str, by: int, expires_at: datetime, now: datetime) -> int | None:
        async with self._tx(tenant) as tx:
            count: int | None = await _queries.count_cached.value(
                tx, tenant_id=tenant, key=key, by=by, expires_at=expires_at, now=now
            )
            return count

    async def prune(self, limit: int = _BATCH) -> int:
        """Deletes entries that have ended; returns how many."""
        async with self._db.system_tx() as tx:
            return await _queries.prune_cached.run(tx, now=self._clock.now(), limit=limit)

    async def tend(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            try:
                full = await self.prune() == _BATCH
            except (psycopg.Error, BackstayError) as error:
                _log.warning("ended entries stay until the next round", error=str(error))
                full = False
            with suppress(TimeoutError):
                async with asyncio.timeout(_MORE_AFTER if full else _PRUNE_EVERY):
                    await ending.wait()

    async def close(self) -> None:
        """The database is closed by who opened it."""

    @asynccontextmanager
    async def _tx(self, tenant: UUID) -> AsyncIterator[Tx]:
        try:
            async with self._db.tenant_tx(tenant) as tx:
                yield tx
        except (psycopg.Error, Unavailable) as error:
            if not self._told:
                self._told = True
                _log.warning("the cache's table cannot be used; until it can, everything is a miss", error=str(error))
            raise Away from None
        if self._told:
            self._told = False
            _log.info("the cache's table can be used again")
