"""A stream as server-sent events: the wire format, and the ASGI part that sends it.

Comments keep the connection open, `id:` is the event's number, `event:` its type, `data:` one line of JSON. A body
that ends before the terminal event means: connect again with `Last-Event-ID`. When reading fails, the body is cut off
without its closing chunk.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from ..kernel import telemetry
from .models import StoredEvent
from .reader import StreamReader

PING_SECONDS = 15.0
SEND_SECONDS = 30.0
"""A client that takes nothing for this long is let go; it resumes from the database when it comes back."""
RETRY_MILLISECONDS = 2000
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}
PING = b": ping\n\n"
_log = telemetry.log("streams")
_released = telemetry.counter("backstay_stream_readers_ended_total", "Readers by how they ended.", ["end"])

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def preamble(reader: StreamReader) -> bytes:
    """What goes out at once, before there is any event: it makes proxies and clients open the stream."""
    return f": stream {reader.id}\nretry: {RETRY_MILLISECONDS}\n\n".encode()


def encode(events: Sequence[StoredEvent]) -> bytes:
    """Events on the wire. Their data is JSON, which has no line breaks outside of escapes."""
    return "".join(f"id: {event.seq}\nevent: {event.type}\ndata: {event.data}\n\n" for event in events).encode()


class EventStream:
    """An ASGI body that sends a reader's events until the stream ends or the client leaves."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader

    async def __call__(self, receive: Receive, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        sending = asyncio.create_task(self._send(send, headers), name=f"sse-{self._reader.id}")
        leaving = asyncio.create_task(_left(receive), name=f"sse-left-{self._reader.id}")
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            leaving.cancel()
            ends = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(ends[0], asyncio.CancelledError):
            _released.labels("left").inc()
        elif isinstance(ends[0], TimeoutError):
            _released.labels("stalled").inc()
        elif isinstance(ends[0], OSError):
            _released.labels("left").inc()
        elif isinstance(ends[0], BaseException):
            # The status has been sent: all that is left is to cut the body off, which the client sees and
            # resumes from.
            _released.labels("failed").inc()
            _log.error("stream reader failed", stream=str(self._reader.id), exc_info=ends[0])
        else:
            _released.labels("complete").inc()

    async def _send(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        with self._reader as reader:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _chunk(send, preamble(reader))
            while not reader.ended and not reader.released:
                events = await reader.page(timeout=PING_SECONDS)
                if events:
                    await _chunk(send, encode(events))
                elif not reader.ended and not reader.released:
                    await _chunk(send, PING)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _chunk(send: Send, body: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
