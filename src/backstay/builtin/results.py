"""Keeps what built-in jobs leave, and gives it to those who may see it."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from uuid import UUID

from ..jobs import JobContext
from ..kernel.clock import Clock
from ..kernel.db import Database, Tx
from ..kernel.principal import Principal
from . import store
from .models import FileView, NoFile, NoResult, ResultView


class Results:
    """One result a job, and its file if it made one."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock

    async def keep(self, tx: Tx, context: JobContext, result: Mapping[str, Any], file: FileView | None = None) -> None:
        """Records what the job has left, in `tx`."""
        await store.put(tx, context.tenant, context.job, context.name, result, file, self._clock.now())

    async def stands(self, context: JobContext) -> bool:
        """Whether an earlier attempt did the work, and its worker died before it could say so."""
        async with self._db.tenant_tx(context.tenant) as tx:
            return await store.find(tx, context.tenant, context.job) is not None

    async def get(self, by: Principal, job: UUID) -> ResultView:
        """What a job has left.

        Raises:
            NoResult: nothing yet, nothing any more, or it is no built-in job of this tenant (404).
        """
        async with self._db.tenant_tx(by.tenant) as tx:
            found = await store.find(tx, by.tenant, job)
        if found is None:
            raise NoResult(f"job {job} has left no result: it is not done, not a built-in one, or done long ago")
        return found

    async def file(self, by: Principal, job: UUID) -> tuple[FileView, AsyncGenerator[bytes, None]]:
        """A job's file: what it is, and its content piece by piece. No connection is held between two pieces.

        Raises:
            NoResult, NoFile: there is none (404). Forbidden: the file needs more than this principal may (403).
        """
        found = await self.get(by, job)
        if found.file is None:
            raise NoFile(f"job {job} has left a result and no file")
        by.require(found.file.permission)
        return found.file, self._parts(by.tenant, job)

    async def file_for(self, tenant: UUID, job: UUID) -> tuple[FileView, AsyncGenerator[bytes, None]] | None:
        """As `file`, for another job of the tenant, which has to see to it itself who will read it."""
        async with self._db.tenant_tx(tenant) as tx:
            found = await store.find(tx, tenant, job)
        return None if found is None or found.file is None else (found.file, self._parts(tenant, job))

    async def _parts(self, tenant: UUID, job: UUID) -> AsyncGenerator[bytes, None]:
        seq = 0
        while True:
            async with self._db.tenant_tx(tenant) as tx:
                body = await store.part(tx, tenant, job, seq)
            if body is None:
                return
            yield body
            seq += 1
