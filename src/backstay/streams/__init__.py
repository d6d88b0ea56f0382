"""Streams: model output that survives its reader, its producer and the process in between.

Owns        stream, stream_event
States      open → done | error | cancelled
Guarantees  An event is stored before anybody can see it. A reader gets every event once and in order, over
any number
            of resumes and on any replica. A stream ends with exactly one of `done`, `error`, `cancelled`.
            Only the newest producer can write; what an older one sends is refused. A stream whose producer
            vanished ends in `error` once its patience is over.
"""

from .models import (
    TERMINAL,
    Appended,
    EventTooLarge,
    EventType,
    NewEvent,
    ProducerFenced,
    ProducerLost,
    ResumePointInvalid,
    Stream,
    StreamEnded,
    StreamEvent,
    StreamExpired,
    StreamNotFound,
    StreamOwned,
    StreamState,
)
from .reader import StreamReader
from .service import Streams
from .writer import StreamWriter

__all__ = [
    "TERMINAL",
    "Appended",
    "EventTooLarge",
    "EventType",
    "NewEvent",
    "ProducerFenced",
    "ProducerLost",
    "ResumePointInvalid",
    "Stream",
    "StreamEnded",
    "StreamEvent",
    "StreamExpired",
    "StreamNotFound",
    "StreamOwned",
    "StreamReader",
    "StreamState",
    "StreamWriter",
    "Streams",
]
