"""The statements that a search is made of: wherever a leg runs, alone or inside the caller's own SQL, it is one named
query with what it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..kernel.db import Tx
from ..kernel.sql import Query
from .models import Found


@dataclass(frozen=True, slots=True)
class Leg:
    """A query for the best chunks, best first, and its values. `settings`: what the planner must be told before."""

    query: Query
    values: Mapping[str, Any]
    settings: Mapping[str, str] = field(default_factory=dict)

    async def found(self, tx: Tx) -> list[Found]:
        """Runs it. Its `settings` are the caller's to make (see vectors_store.tune)."""
        found = await self.query.all(tx, Found, **self.values)
        # Scores that are equal after rounding stand in one order, here and in SQL.
        return sorted(found, key=lambda one: (-one.score, one.chunk_id))
