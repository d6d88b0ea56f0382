"""Events of a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..kernel.db import Tx

if TYPE_CHECKING:
    from .run import Run


async def emit(run: "Run", type: str, payload: Mapping[str, Any]) -> UUID:
    """Puts an event into the outbox, exactly once: it is committed together with this step. Returns its id.

    Raises:
        StepFailed: `type` is not written like `order.paid`, or the payload cannot be stored.
    """

    async def write(tx: Tx, type: str, payload: Mapping[str, Any]) -> UUID:
        return await run._around.events.emit(tx, type, payload)

    return await run.transaction(write, type, payload, name=f"emit {ascii(type)[1:-1][:200]}")
