"""Settings of queues over HTTP, for the operator of the installation."""

from typing import Annotated
from uuid import UUID

from fastapi import Path

from ...kernel.http import Caller, Router, service
from ..limits import LimitInvalid
from .models import NotTheOperator, QueueLimit, QueueSettings, Share, ShareChange
from .service import Queues

router = Router("/api/queues", tag="jobs")
Service = Annotated[Queues, service("queues")]
Name = Annotated[str, Path(min_length=1, max_length=100, description="The queue's name.")]


@router.get("/{queue}", permission="queues:read", errors=[NotTheOperator])
async def show(queue: Name, by: Caller, queues: Service) -> QueueSettings:
    """A queue's limits, and what tenants get of it."""
    return await queues.show(by, queue)


@router.put("/{queue}/limits", permission="queues:write", errors=[NotTheOperator, LimitInvalid])
async def limit(queue: Name, body: QueueLimit, by: Caller, queues: Service) -> QueueSettings:
    """Limit how many jobs of a queue run at once and start in a time, over all workers and tenants."""
    return await queues.limit(by, queue, body)


@router.put("/{queue}/tenants/{tenant}", permission="queues:write", errors=[NotTheOperator])
async def share(queue: Name, tenant: UUID, body: ShareChange, by: Caller, queues: Service) -> Share:
    """Set what a tenant gets of a queue: its weight beside the others, and how many of its jobs run at once."""
    return await queues.share(by, queue, tenant, body)
