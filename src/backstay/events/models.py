"""An event of the outbox."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `type` is `<room>.<past tense>`, `payload` is JSON."""

    id: UUID
    tenant_id: UUID
    at: datetime
    type: str
    payload: dict[str, Any]
