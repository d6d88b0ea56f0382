"""What a stream and its events are. Every provider's output takes the same shape:

type                 data
message.start        model, and for an agent's answer run and attempt
text.delta           text: to be appended to what came before
reasoning.delta      text
tool.call            id, name, arguments
tool.result          id, output
usage                input_tokens, output_tokens, cost (USD as a decimal string)
status               state, in words; with restarted = true everything shown since `message.start` is void
approval.requested   id, action, and what the approver needs to see
done                 what the producer wants to add, such as sources; an end
error                a problem document (RFC 9457); an end
cancelled            who asked is in the audit; an end
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import orjson

from ..kernel.errors import Conflict, Gone, Invalid, NotFound, TooLarge, Unavailable

StreamState = Literal["open", "done", "error", "cancelled"]
EventType = Literal[
    "message.start",
    "text.delta",
    "reasoning.delta",
    "tool.call",
    "tool.result",
    "usage",
    "status",
    "approval.requested",
    "done",
    "error",
    "cancelled",
]
End = Literal["done", "error", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"done", "error", "cancelled"})

MAX_EVENT_BYTES = 256 * 1024
"""Largest data of one event, as JSON. Larger output belongs in a document that the event names."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as it stands. `run` is the run that produces it, when one does."""

    tenant: UUID
    id: UUID
    run: UUID | None
    state: StreamState
    producer_epoch: int
    last_seq: int
    patience: timedelta
    lease_until: datetime | None
    cancel_requested_at: datetime | None
    created_at: datetime
    closed_at: datetime | None
    expires_at: datetime

    @property
    def ended(self) -> bool:
        return self.state != "open"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event. `seq` counts from 1 within its stream and is what `Last-Event-ID` carries."""

    seq: int
    type: EventType
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it lies in the database, its data still JSON text."""

    seq: int
    type: EventType
    data: str

    def parsed(self) -> StreamEvent:
        return StreamEvent(self.seq, self.type, orjson.loads(self.data))


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event on its way in."""

    type: EventType
    data: str

    @classmethod
    def of(cls, type: EventType, data: Mapping[str, Any]) -> "NewEvent":
        """Raises Invalid when the data is not JSON, EventTooLarge when it exceeds 256 KiB."""
        try:
            text = orjson.dumps(dict(data), default=str)
        except TypeError as error:
            raise Invalid(f"the data of a {type} event cannot be written as JSON: {error}") from None
        if len(text) > MAX_EVENT_BYTES:
            raise EventTooLarge(
                f"the data of a {type} event is {len(text)} bytes, {MAX_EVENT_BYTES} are allowed: split it, or store "
                "it and send its id"
            )
        return cls(type, text.decode())


@dataclass(frozen=True, slots=True)
class Appended:
    """What a producer learns from a write: where the stream stands, its epoch, and whether to stop."""

    last_seq: int
    epoch: int
    cancel_requested: bool


@dataclass(frozen=True, slots=True)
class Orphan:
    """An open stream past its lease or its expiry."""

    tenant: UUID
    id: UUID
    cancel_requested: bool
    expired: bool


class StreamNotFound(NotFound):
    code, title = "stream_not_found", "Stream not found"


class StreamExpired(Gone):
    code, title = "stream_expired", "Stream expired"


class StreamEnded(Conflict):
    code, title = "stream_ended", "Stream has ended"


class ProducerFenced(Conflict):
    code, title = "stream_producer_fenced", "A newer producer writes this stream"


class ResumePointInvalid(Invalid):
    code, title = "stream_resume_point_invalid", "Resume point invalid"


class StreamOwned(Conflict):
    code, title = "stream_owned_by_run", "The stream belongs to a run"


class EventTooLarge(TooLarge):
    code, title = "stream_event_too_large", "Stream event too large"


class ProducerLost(Unavailable):
    """Leaves as the terminal `error` event of a stream whose producer vanished."""

    code, title = "stream_producer_lost", "Stream producer lost"
