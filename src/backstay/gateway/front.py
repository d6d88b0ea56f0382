"""The OpenAI surface as a raw ASGI application: the hot path, without a web framework.

While an answer is made, a watch waits for the client to leave (the call is then cancelled, upstream included) and sends
a comment now and then, so that nothing between here and the client takes the connection for dead.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import orjson
from starlette.types import Receive, Scope, Send

from ..kernel import telemetry
from ..kernel.errors import BackstayError, BadRequest, FieldError, MethodNotAllowed, NotFound, TooLarge, Unauthorized
from ..kernel.principal import Principal
from . import sse
from .calls import Order
from .errors import GatewayError, ProviderRefused
from .service import DEFAULT_FEATURE, Gateway
from .wire import openai as wire

_log = telemetry.log("gateway")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
_JSON = b"application/json"
_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_MAX_BODY = 8 * 1024 * 1024
HEARTBEAT = 15.0
Authenticate = Callable[[str], Awaitable[Principal]]
Headers = list[tuple[bytes, bytes]]


class _ClientGone(Exception):
    """The client left before its request was read."""


class GatewayFront:
    """`/v1/chat/completions`, `/v1/embeddings`, `/v1/models`. `authenticate` turns a bearer token into a Principal.

    Tags come from the headers `backstay-feature` and `backstay-user`, else from the body's `metadata.feature` and
    `user`, else from the key. Every answer carries `x-request-id`, and `backstay-call` once the call has its id.
    """

    def __init__(
        self,
        gateway: Gateway,
        authenticate: Authenticate,
        *,
        max_body_bytes: int = _MAX_BODY,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._gateway, self._authenticate = gateway, authenticate
        self._max_body, self._heartbeat = max_body_bytes, heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway's front serves http, not {scope['type']}")
        client = _Client(scope, receive, send)
        task = asyncio.current_task()
        try:
            await self._serve(client)
        except _ClientGone:
            return
        except asyncio.CancelledError:
            # Our own cancellation ends here; one from outside, such as a shutdown, goes on.
            if task is None or not client.left or task.uncancel() > 0:
                raise
        except Exception as error:
            await client.fail(error)

    async def _serve(self, client: "_Client") -> None:
        path = client.path
        if path in ("/v1/chat/completions", "/v1/embeddings"):
            client.require("POST")
            by = await self._caller(client)
            raw = await client.body(self._max_body)
            body = wire.parse(raw)
            tags = _tags(client.headers, body, by)
            make = self._gateway.chat_order if path.endswith("completions") else self._gateway.embed_order
            order = make(by, body, size=len(raw), **tags)
            client.call = order.id
            await (self._stream(client, order) if order.streamed else self._whole(client, order))
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            client.require("GET")
            await self._models(client, await self._caller(client))
        else:
            raise NotFound(f"nothing is served at {path}")

    async def _caller(self, client: "_Client") -> Principal:
        scheme, _, token = client.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("send your API key as `Authorization: Bearer …`")
        return await self._authenticate(token.strip())

    async def _whole(self, client: "_Client", order: Order) -> None:
        async with client.watched():
            reply = await self._gateway.answer(order)
        await client.answer(200, reply.raw, [(b"backstay-cost", f"{reply.cost:f}".encode())])

    async def _stream(self, client: "_Client", order: Order) -> None:
        try:
            async with client.watched(self._heartbeat), aclosing(self._gateway.chunks(order)) as groups:
                async for group in groups:
                    await client.stream(b"".join([b"data: %b\n\n" % chunk.data for chunk in group]))
        except BackstayError as error:
            if not client.started:
                raise
            # The client has seen output: tell it in its own format, and leave out the end mark.
            usage = error.usage if isinstance(error, GatewayError) else None
            await client.stream(sse.event(wire.error_body(error, usage)), last=True)
            return
        await client.stream(sse.DONE, last=True)

    async def _models(self, client: "_Client", by: Principal) -> None:
        models = [
            {"id": f"{provider}:{model}", "object": "model", "created": 0, "owned_by": provider}
            for provider, model in self._gateway.models(by)
        ]
        name = client.path.removeprefix("/v1/models").removeprefix("/")
        if not name:
            await client.answer(200, orjson.dumps({"object": "list", "data": models}))
            return
        found = next((model for model in models if name in (model["id"], model["id"].removeprefix("openai:"))), None)  # type: ignore[attr-defined]
        if found is None:
            raise NotFound(f"there is no model {name!r} in the list")
        await client.answer(200, orjson.dumps(found))


class _Client:
    """One request and the answer to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        self.call: UUID | None = None
        self.started = self.left = False
        self._last_sent = 0.0

    def require(self, method: str) -> None:
        if self._scope["method"] != method:
            raise MethodNotAllowed(f"{self.path} takes {method}", headers={"allow": method})

    async def body(self, most: int) -> bytes:
        declared = self.headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > most:
            raise TooLarge(f"the body is larger than {most} bytes")
        parts, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise TooLarge(f"the body is larger than {most} bytes")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    @asynccontextmanager
    async def watched(self, heartbeat: float | None = None) -> AsyncIterator[None]:
        """Cancels the block when the client leaves; sends a comment when nothing else was sent for `heartbeat` s."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- we run in one

        async def watch() -> None:
            while True:
                try:
                    async with asyncio.timeout(heartbeat):
                        while (await self._receive())["type"] != "http.disconnect":
                            pass
                    self.left = True
                    task.cancel()
                    return
                except TimeoutError:
                    if heartbeat and time.monotonic() - self._last_sent >= heartbeat:
                        await self.stream(sse.PING)

        watcher = asyncio.create_task(watch())
        self._last_sent = time.monotonic()
        try:
            yield
        finally:
            watcher.cancel()

    async def answer(self, status: int, body: bytes, headers: Headers | None = None, kind: bytes = _JSON) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", kind), length, *(headers or ())])
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, data: bytes, last: bool = False) -> None:
        if not self.started:
            await self._start(200, _SSE_HEADERS)
        self._last_sent = time.monotonic()
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        except OSError:
            # Servers differ: some say that the client left by failing the next send.
            raise _ClientGone from None

    async def fail(self, error: Exception) -> None:
        if not isinstance(error, BackstayError):
            _log.error("unexpected error", path=self.path, exc_info=error)
            error = BackstayError("something went wrong on our side; the log has it under the x-request-id")
        elif error.status >= 500:
            _log.warning("call failed", code=error.code, detail=error.detail, call=str(self.call))
        if self.started:
            await self.stream(sse.event(wire.error_body(error)), last=True)
            return
        headers = [
            (name.encode("latin-1"), str(value).encode("latin-1", "replace")) for name, value in error.headers.items()
        ]
        if isinstance(error, ProviderRefused):
            # The provider's own words, in the client's own format.
            await self.answer(error.answer_status, error.body, headers)
            return
        await self.answer(error.status, wire.error_body(error), headers)

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        headers = list(headers)
        if "backstay.request_id" not in self._scope:
            given = self.headers.get("x-request-id", "")
            headers.append((b"x-request-id", (given if _REQUEST_ID.fullmatch(given) else uuid4().hex).encode()))
        if self.call is not None:
            headers.append((b"backstay-call", str(self.call).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _tags(headers: Mapping[str, str], body: dict[str, Any], by: Principal) -> dict[str, Any]:
    metadata = body.get("metadata")
    feature = headers.get("backstay-feature")
    if feature is None and isinstance(metadata, dict) and "feature" in metadata:
        feature = metadata["feature"]
    if isinstance(metadata, dict) and "feature" in metadata:
        # Ours, not the provider's: some refuse metadata on calls they do not store.
        rest = {key: value for key, value in metadata.items() if key != "feature"}
        body.pop("metadata")
        if rest:
            body["metadata"] = rest
    run = headers.get("backstay-run")
    try:
        run_id = UUID(run) if run else None
    except ValueError:
        raise BadRequest("`backstay-run` is wrong", errors=[FieldError("backstay-run", "must be a UUID")]) from None
    return {
        "feature": feature or by.feature or DEFAULT_FEATURE,
        "user": headers.get("backstay-user") or body.get("user") or None,
        "run": run_id,
        "idempotency": headers.get("idempotency-key") or None,
        "sim": headers.get("backstay-sim"),
    }
