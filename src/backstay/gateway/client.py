"""One HTTP request to the gateway and the answer to it, on bare ASGI.

While an answer is made, a watch waits for the client to leave (the call is then cancelled, upstream included) and sends
a heartbeat now and then, so that nothing between here and the client takes the connection for dead.
"""

import asyncio
import re
import time
from collections.abc import Iterable
from secrets import token_hex
from typing import Protocol
from urllib.parse import parse_qs
from uuid import UUID

from starlette.types import Receive, Scope, Send

from ..kernel.errors import MethodNotAllowed, TooLarge
from .surfaces import family

Headers = list[tuple[bytes, bytes]]
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
_JSON = b"application/json"
_SSE = b"text/event-stream; charset=utf-8"
_UNWATCHED = 0.1  # seconds
_UNBUFFERED: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Framing(Protocol):
    """Puts events into another shape."""

    content_type: bytes

    def add(self, framed: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class ClientGone(Exception):
    """The client left before its request was read, or while its answer was written."""


class Client:
    """`left`: it went away while being watched. `started`: its status has been sent. `last_sent`: when something was
    sent, on the monotonic clock."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.method: str = scope["method"]
        given = self.headers.get("x-request-id", "")
        self.request_id: str = scope.get("backstay.request_id") or (
            given if _REQUEST_ID.fullmatch(given) else token_hex(16)
        )
        self.call: UUID | None = None
        self.extra: Headers = []
        self._framing: Framing | None = None
        self.started = self.left = False
        self.last_sent = 0.0

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

    def watched(self, heartbeat: float | None = None, ping: bytes = b"") -> "Watch":
        """Cancels the block when the client leaves; sends `ping` when nothing else was sent for `heartbeat` seconds."""
        return Watch(self, heartbeat, ping)

    async def answer(
        self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (), kind: bytes = _JSON
    ) -> None:
        """The whole answer."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", kind), length, *headers])
        await self._send({"type": "http.response.body", "body": body})

    async def gone(self) -> None:
        """Returns when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

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
        self.last_sent = time.monotonic()
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


class Watch:
    """Waits for a client to leave, in a task of its own, from a moment after the beginning: many an answer is there by
    then, and needs no task. A client that left meanwhile is noticed when the watch begins."""

    __slots__ = ("_client", "_heartbeat", "_ping", "_task", "_timer", "_watched")

    def __init__(self, client: Client, heartbeat: float | None, ping: bytes) -> None:
        self._client, self._heartbeat, self._ping = client, heartbeat, ping
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._watched = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(_UNWATCHED, self._begin)
        self._client.last_sent = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        client, heartbeat = self._client, self._heartbeat
        while True:
            try:
                async with asyncio.timeout(heartbeat):
                    await client.gone()
                client.left = True
                if self._watched is not None:
                    self._watched.cancel()
                return
            except TimeoutError:
                if heartbeat and time.monotonic() - client.last_sent >= heartbeat:
                    await client.stream(self._ping)
