"""Removes runs that ended long ago."""

from datetime import datetime
from uuid import UUID

from ..kernel.db import Tx
from . import store


async def prune_runs(tx: Tx, tenant: UUID, before: datetime, limit: int) -> int:
    """Deletes at most `limit` runs that ended before a moment, with all that hangs on them. Returns how many.

    A run stays while it is of use: unfinished or parked, a child of a run that stands, or the run of an open stream.
    """
    return await store.prune_runs(tx, tenant, before, limit)
