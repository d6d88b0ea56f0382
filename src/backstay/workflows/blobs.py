"""What is too large for a hot row of a run or a step: it lies in run_blob, and comes back with the row."""

from typing import Literal
from uuid import UUID

from ..kernel import sql
from ..kernel.db import Tx

INLINE_BYTES = 64 * 1024
_LONGEST = 4  # bytes of a character
_queries = sql.load(__package__)


def is_large(text: str | None) -> bool:
    """Whether this JSON text is too large for a hot row."""
    return text is not None and len(text) * _LONGEST > INLINE_BYTES and len(text.encode()) > INLINE_BYTES


def inline(text: str | None) -> str | None:
    """What the hot row holds of it."""
    return None if is_large(text) else text


async def keep(
    tx: Tx, tenant: UUID, run: UUID, part: Literal["input", "output", "step"], text: str | None, seq: int = -1
) -> None:
    """Keeps a large text for a row that `tx` has written without it."""
    if is_large(text):
        await _queries.keep.run(tx, tenant_id=tenant, run_id=run, part=part, seq=seq, body=text)
