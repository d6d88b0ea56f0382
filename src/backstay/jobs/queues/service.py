"""Queues as the operator sees them: paused, limited, shared out between tenants. Each change has its audit entry."""

from uuid import UUID

from ...audit import Audit
from ...auth import Auth
from ...kernel.db import Database
from ...kernel.principal import Principal
from ..limits import Rate
from ..topics import READY
from . import store
from .models import NotTheOperator, QueueLimit, QueueSettings, Share, ShareChange


class Queues:
    """Queues are shared by all tenants: only principals of the installation's own tenant (`default`) may set them."""

    def __init__(self, db: Database, audit: Audit, auth: Auth) -> None:
        self._db, self._audit, self._auth = db, audit, auth

    async def show(self, by: Principal, queue: str) -> QueueSettings:
        """A queue's settings; those of a queue that nobody has set are the default ones.

        Raises:
            NotTheOperator
        """
        await self._check(by)
        async with self._db.system_tx() as tx:
            row = await store.row(tx, queue) or {"paused": False, "max_running": None, "starts": None}
            shares = await store.shares(tx, queue)
        rate = str(Rate(row["starts"], row["seconds"])) if row["starts"] else None
        return QueueSettings(name=queue, paused=row["paused"], max_running=row["max_running"], rate=rate, shares=shares)

    async def limit(self, by: Principal, queue: str, limit: QueueLimit) -> QueueSettings:
        """Sets what the queue may do; workers learn of it with their next look around.

        Raises:
            NotTheOperator, LimitInvalid
        """
        await self._check(by)
        rate = Rate.read(limit.rate) if limit.rate else None
        async with self._db.system_tx() as tx:
            await store.limit(tx, queue, limit.max_running, rate)
            await self._audit.record(tx, by, "queue.limited", f"queue:{queue}", metadata=limit.model_dump())
            tx.notify(READY, queue)
        return await self.show(by, queue)

    async def share(self, by: Principal, queue: str, tenant: UUID, change: ShareChange) -> Share:
        """Sets what a tenant gets of a queue: of the jobs that start while several tenants have some waiting, its part
        is its weight over the sum of theirs.

        Raises:
            NotTheOperator
        """
        await self._check(by)
        async with self._db.system_tx() as tx:
            await store.lock(tx, queue)
            if change == ShareChange():
                await store.drop_share(tx, queue, tenant)
            else:
                await store.set_share(tx, queue, tenant, change.weight, change.max_running)
            about = {"tenant": str(tenant), **change.model_dump()}
            await self._audit.record(tx, by, "queue.shared", f"queue:{queue}", metadata=about)
            tx.notify(READY, queue)
        return Share(tenant=tenant, **change.model_dump())

    async def _check(self, by: Principal) -> None:
        if by.tenant != (await self._auth.ensure_default_tenant()).id:
            raise NotTheOperator("queues are shared by all tenants; only the installation's own tenant sets them")
