"""The head of an answer leaves together with what follows it at once.

The server writes the head by itself: a packet, a system call and a wake-up of the client more for every answer.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/1.1 "
_COPIED = 64 * 1024  # bytes: a longer body is not copied behind its head


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's own, on a transport that holds heads back for a moment."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn says the same
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))


class Corked:
    """A transport whose heads wait for the next write, or for the end of this turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            if len(data) > _COPIED:
                self._flush()
            else:
                head, self._head = self._head, b""
                data = head + data
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
