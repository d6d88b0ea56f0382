"""One HTTP request to the gateway and the answer to it, on bare ASGI.

While an answer is made, a watch waits for the client to leave (the call is then cancelled, upstream included) and sends
a heartbeat now and then, so that nothing between here and the client takes the connection for dead.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import parse_qs
from uuid import UUID, uuid4

from starlette.types import Receive, Scope, Send

from ..kernel.errors import MethodNotAllowed, TooLarge
from .surfaces import family

Headers = list[tuple[bytes, bytes]]
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
_JSON = b"application/json"
_SSE = b"text/event-stream; charset=utf-8"
_UNBUFFERED: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Framing(Protocol):
    """Puts events into another shape."""

    content_type: bytes

    def add(self, framed: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class ClientGone(Exception):
    """The client left before its request was read, or while its answer was written."""


class Client:
    """`left`: it went away while being watched. `started`: its status has been sent."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.method: str = scope["method"]
        given = self.headers.get("x-request-id", "")
        self.request_id: str = scope.get("backstay.request_id") or (
            given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        )
        self.call: UUID | None = None
        self.extra: Headers = []
        self._framing: Framing | None = None
        self.started = self.left = False
        self._last_sent = 0.0

    @property
    def query(self) -> dict[str, str]:
        """The first value of each parameter."""
        found = parse_qs(self._scope.get("query_string", b"").decode("latin-1"))
        return {name: values[0] for name, values in found.items()}

    def require(self, method: str) -> None:
        if self.method != method:
            raise MethodNotAllowed(f"{self.path} takes {method}", headers={"allow": method})

    async def body(self, most: int) -> bytes:
        """The whole body.

        Raises:
            TooLarge: it has more than `most` bytes. ClientGone.
        """
        declared = self.headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > most:
            raise TooLarge(f"the body is larger than {most} bytes")
        parts, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise TooLarge(f"the body is larger than {most} bytes")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    @asynccontextmanager
    async def watched(self, heartbeat: float | None = None, ping: bytes = b"") -> AsyncIterator[None]:
        """Cancels the block when the client leaves; sends `ping` when nothing else was sent for `heartbeat` seconds."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- we run in one

        async def gone() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass

        async def watch() -> None:
            while True:
                try:
                    if heartbeat is None:
                        await gone()
                    else:
                        async with asyncio.timeout(heartbeat):
                            await gone()
                    self.left = True
                    task.cancel()
                    return
                except TimeoutError:
                    if heartbeat and time.monotonic() - self._last_sent >= heartbeat:
                        await self.stream(ping)

        watcher = asyncio.create_task(watch())
        self._last_sent = time.monotonic()
        try:
            yield
        finally:
            watcher.cancel()

    async def answer(
        self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (), kind: bytes = _JSON
    ) -> None:
        """The whole answer."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", kind), length, *headers])
        await self._send({"type": "http.response.body", "body": body})

    def reframe(self, framing: Framing) -> None:
        """Has events leave in another shape than that of server-sent events."""
        self._framing = framing

    async def stream(self, data: bytes, last: bool = False) -> None:
        """A piece of the answer; the first one decides that the status is 200."""
        if not self.started:
            kind = self._framing.content_type if self._framing else _SSE
            await self._start(200, [(b"content-type", kind), *_UNBUFFERED])
        if self._framing is not None:
            data = (self._framing.add(data) if data else b"") + (self._framing.end() if last else b"")
        self._last_sent = time.monotonic()
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        except OSError:
            # Servers differ: some say that the client left by failing the next send.
            raise ClientGone from None

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        headers = [*headers, *self.extra]
        if "backstay.request_id" not in self._scope:
            headers.append((b"x-request-id", self.request_id.encode()))
        if family(self.path, self.headers) == "anthropic":
            headers.append((b"request-id", self.request_id.encode()))
        if self.call is not None:
            headers.append((b"backstay-call", str(self.call).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
