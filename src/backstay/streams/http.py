"""`/api/streams`: read with resume, cancel, and write for producers of the user's own."""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from ..kernel.db import Tx
from ..kernel.http import Caller, Router, service
from .models import (
    EventTooLarge,
    EventType,
    NewEvent,
    ProducerFenced,
    ResumePointInvalid,
    Stream,
    StreamEnded,
    StreamExpired,
    StreamNotFound,
    StreamOwned,
    StreamState,
)
from .service import MAX_BATCH, Streams
from .sse import HEADERS, EventStream

router = Router("/api/streams", tag="streams")
_EVENT_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
_SSE = {200: {"description": "Events, live, until the terminal one", "content": {"text/event-stream": {}}}}
_NOTHING_LEFT = {204: {"description": "The stream has ended and the client has its terminal event"}}


class NewStream(BaseModel):
    """A stream for a producer of your own."""

    model_config = ConfigDict(extra="forbid")
    id: UUID | None = Field(None, description="Makes the creation repeatable; chosen by the server when left out.")
    expires_in_seconds: float = Field(86_400, gt=0, le=90 * 86_400, description="When its events are deleted.")
    patience_seconds: float = Field(
        60, gt=0, le=86_400, description="How long a silent producer may come back before the stream ends in `error`."
    )


class StreamView(BaseModel):
    """A stream as it stands."""

    id: UUID
    run: UUID | None
    state: StreamState
    last_seq: int
    producer_epoch: int
    cancel_requested: bool
    created_at: datetime
    closed_at: datetime | None
    expires_at: datetime
    events_url: str

    @classmethod
    def of(cls, stream: Stream) -> "StreamView":
        return cls(
            id=stream.id,
            run=stream.run,
            state=stream.state,
            last_seq=stream.last_seq,
            producer_epoch=stream.producer_epoch,
            cancel_requested=stream.cancel_requested_at is not None,
            created_at=stream.created_at,
            closed_at=stream.closed_at,
            expires_at=stream.expires_at,
            events_url=f"/api/streams/{stream.id}/events",
        )


class EventIn(BaseModel):
    """One event to append. `done`, `error` and `cancelled` end the stream and must come last."""

    model_config = ConfigDict(extra="forbid")
    type: EventType
    data: dict[str, Any] = {}


class Append(BaseModel):
    """Events of one producer. Leave `epoch` out once to become the stream's producer, then send the one
    answered.
    """

    model_config = ConfigDict(extra="forbid")
    epoch: int | None = Field(None, ge=1, le=2**63 - 1)
    events: list[EventIn] = Field([], max_length=MAX_BATCH, description="None at all renews the producer's lease.")


class AppendedView(BaseModel):
    """Where the stream stands after an append, and whether the producer has been asked to stop."""

    last_seq: int
    epoch: int
    cancel_requested: bool


class EventStreamResponse(Response):
    """Hands the connection to our own event stream."""

    def __init__(self, body: EventStream) -> None:
        super().__init__(headers=HEADERS, media_type=None)
        del self.headers["content-length"]
        self._events = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._events(receive, send, list(self.raw_headers))


@router.post("", permission="streams:write", status=201)
async def create(body: NewStream, by: Caller, tx: Tx, streams: Annotated[Streams, service("streams")]) -> StreamView:
    """Create a stream for a producer of your own. The same id again returns the stream that stands."""
    stream = await streams.create(
        by,
        id=body.id,
        expires_in=timedelta(seconds=body.expires_in_seconds),
        patience=timedelta(seconds=body.patience_seconds),
        tx=tx,
    )
    return StreamView.of(stream)


@router.get("/{id}", permission="streams:read", errors=[StreamNotFound])
async def show(id: UUID, by: Caller, streams: Annotated[Streams, service("streams")]) -> StreamView:
    """One stream as it stands."""
    return StreamView.of(await streams.get(by, id))


@router.post(
    "/{id}/events",
    permission="streams:write",
    errors=[StreamNotFound, StreamExpired, StreamEnded, StreamOwned, ProducerFenced, EventTooLarge],
)
async def append(
    id: UUID, body: Append, by: Caller, tx: Tx, streams: Annotated[Streams, service("streams")]
) -> AppendedView:
    """Append events. They are stored before any reader sees them; a producer that was replaced gets 409."""
    owner = (await streams.get(by, id, tx=tx)).run
    if owner is not None:
        raise StreamOwned(f"only run {owner} writes stream {id}; make a stream of your own to append to")
    events = [NewEvent.of(event.type, event.data) for event in body.events]
    appended = await streams.append(by, id, events, epoch=body.epoch, tx=tx)
    return AppendedView(last_seq=appended.last_seq, epoch=appended.epoch, cancel_requested=appended.cancel_requested)


@router.get(
    "/{id}/events",
    permission="streams:read",
    errors=[StreamNotFound, StreamExpired, ResumePointInvalid],
    response_model=None,
    response_class=Response,
    responses=_SSE | _NOTHING_LEFT,
)
async def events(
    id: UUID,
    by: Caller,
    streams: Annotated[Streams, service("streams")],
    after: Annotated[str | None, Query(description="Resume behind this event; 0 for all.", max_length=20)] = None,
    last_event_id: Annotated[
        str | None, Header(description="As `after`, which it overrules: what an EventSource sends by itself.")
    ] = None,
) -> Response:
    """Read the stream as server-sent events, from the start or behind the last event received, live to its
    end.
    """
    reader = await streams.reader(by, id, _resume_point(last_event_id if last_event_id else after))
    return Response(status_code=204) if reader.ended else EventStreamResponse(EventStream(reader))


@router.post("/{id}/cancel", permission="streams:write", errors=[StreamNotFound, StreamExpired], status=202)
async def cancel(id: UUID, by: Caller, tx: Tx, streams: Annotated[Streams, service("streams")]) -> StreamView:
    """Ask the producer to stop, wherever it runs. Nothing happens to a stream that has ended."""
    return StreamView.of(await streams.cancel(by, id, tx=tx))


def _resume_point(text: str | None) -> int:
    if not text:
        return 0
    if not _EVENT_ID.fullmatch(text):
        raise ResumePointInvalid(
            "`Last-Event-ID` (or `after`) must be the whole number that the last event had as its id"
        )
    return int(text)
