"""What rooms beside the audit use to leave evidence, without knowing the audit room."""

from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from .db import Tx
from .principal import Principal


class Recorder(Protocol):
    """Writes an audit entry in the business transaction. The audit room implements it."""

    async def record(
        self,
        tx: Tx,
        by: Principal,
        action: str,
        resource: str,
        *,
        outcome: str = "ok",
        run: UUID | None = None,
        call: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        payload: Mapping[str, Any] | None = None,
        subject: str | None = None,
    ) -> UUID: ...
