"""Removes model calls that ended long ago, with their lines in the ledger."""

from datetime import datetime
from uuid import UUID

from ..kernel.db import Tx
from . import store


async def prune_calls(tx: Tx, tenant: UUID, before: datetime, limit: int) -> int:
    """Deletes at most `limit` calls that ended before a moment. Returns how many.

    Open ones stay, and so do those that still hold something of a budget. What budgets have counted stands apart.
    """
    return await store.prune_calls(tx, tenant, before, limit)
