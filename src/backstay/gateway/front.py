"""The model-facing API as a raw ASGI application: the hot path, without a web framework."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any
from uuid import UUID

from starlette.types import Receive, Scope, Send

from ..kernel import telemetry
from ..kernel.errors import BackstayError, BadRequest, FieldError, Unauthorized
from ..kernel.principal import Principal
from . import listing
from .client import Client, ClientGone
from .errors import OVERLOADED, GatewayError, ProviderFailed, ProviderRefused
from .order import Order
from .service import Gateway
from .surfaces import Surface, family, surface_of
from .wire import ANTHROPIC, GEMINI, WIRES, Body, Wire, fields
from .wire.gemini import ArrayFraming

_log = telemetry.log("gateway")
_MAX_BODY = 8 * 1024 * 1024
HEARTBEAT = 15.0
Authenticate = Callable[[str], Awaitable[Principal]]


class GatewayFront:
    """`/v1` and `/v1beta` in the formats of OpenAI, Anthropic and Gemini. `authenticate` turns a key into a Principal.

    Tags come from the headers `backstay-feature` and `backstay-user`, else from the body's `metadata.feature` and its
    format's word for the user, else from the key. Every answer carries `x-request-id`, and `backstay-call` once the
    call has its id.
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
        client = Client(scope, receive, send)
        task = asyncio.current_task()
        try:
            await self._serve(client)
        except ClientGone:
            return
        except asyncio.CancelledError:
            # Our own cancellation ends here; one from outside, such as a shutdown, goes on.
            if task is None or not client.left or task.uncancel() > 0:
                raise
        except Exception as error:
            await _fail(client, error)

    async def _serve(self, client: Client) -> None:
        if listing.asks(client):
            client.require("GET")
            models = await self._gateway.models(await self._caller(client))
            await client.answer(200, listing.answer(client, models))
            return
        surface = surface_of(client.path)
        client.require("POST")
        order = await self._order(client, surface)
        client.call, client.extra = order.id, order.told
        if surface.kind == "count":
            await client.answer(200, await self._gateway.count(order))
        else:
            await (self._stream(client, order) if order.request.stream else self._whole(client, order))

    async def _order(self, client: Client, surface: Surface) -> Order:
        by = await self._caller(client)
        raw = await client.body(self._max_body)
        body = fields.parse(raw)
        if surface.model is not None:
            body |= {"model": surface.model, "stream": surface.stream}
        headers = client.headers
        return await self._gateway.order(
            by,
            surface.wire,
            surface.kind,
            body,
            raw=raw,
            feature=_feature(headers, body, by),
            user=headers.get("backstay-user") or None,
            run=_run(headers),
            idempotency=headers.get("idempotency-key") or None,
            headers=headers,
        )

    async def _caller(self, client: Client) -> Principal:
        headers = client.headers
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else ""
        key = key or headers.get("x-api-key") or headers.get("x-goog-api-key") or ""
        if not key and client.path.startswith("/v1beta/"):
            key = client.query.get("key", "")
        if not key:
            raise Unauthorized("send your API key as `Authorization: Bearer …`, or as your client's own key header")
        return await self._authenticate(key)

    async def _whole(self, client: Client, order: Order) -> None:
        with client.watched():
            reply = await self._gateway.answer(order)
        await client.answer(200, reply.raw, [(b"backstay-cost", f"{reply.cost:f}".encode())])

    async def _stream(self, client: Client, order: Order) -> None:
        wire = WIRES[order.surface]
        if order.surface == GEMINI.name and client.query.get("alt") != "sse":
            client.reframe(ArrayFraming())
        try:
            with client.watched(self._heartbeat, wire.ping()):
                async with aclosing(self._gateway.chunks(order)) as groups:
                    async for group in groups:
                        await client.stream(b"".join([chunk.frame for chunk in group]))
        except BackstayError as error:
            if not client.started:
                raise
            # The client has seen output: tell it in its own format, and leave out the end mark.
            usage = error.usage if isinstance(error, GatewayError) else None
            await client.stream(wire.error_event(error, usage), last=True)
            return
        await client.stream(b"", last=True)


async def _fail(client: Client, error: Exception) -> None:
    wire = WIRES[family(client.path, client.headers)]
    if not isinstance(error, BackstayError):
        _log.error("unexpected error", path=client.path, exc_info=error)
        error = BackstayError("something went wrong on our side; the log has it under the x-request-id")
    elif error.status >= 500:
        _log.warning("call failed", code=error.code, detail=error.detail, call=str(client.call))
    if client.started:
        await client.stream(wire.error_event(error), last=True)
        return
    headers = [
        (name.encode("latin-1"), str(value).encode("latin-1", "replace")) for name, value in error.headers.items()
    ]
    if isinstance(error, ProviderRefused) and error.wire == wire.name:
        # The provider's own words, in the client's own format.
        await client.answer(error.status, error.body, headers)
        return
    await client.answer(_status(error, wire), wire.error_body(error, client.request_id), headers)


def _status(error: BackstayError, wire: Wire) -> int:
    """The error's status. Anthropic's own word for overloaded is kept for a client that spoke with Anthropic in its own
    format; to others it would mean nothing."""
    if isinstance(error, ProviderFailed) and error.status_seen == OVERLOADED and error.wire == wire.name:
        return OVERLOADED if wire is ANTHROPIC else error.status
    return error.status


def _feature(headers: Mapping[str, str], body: Body, by: Principal) -> Any:
    """The tag that was given; None when there is none."""
    metadata = body.get("metadata")
    given = metadata.get("feature") if isinstance(metadata, dict) else None
    return headers.get("backstay-feature") or given or by.feature or None


def _run(headers: Mapping[str, str]) -> UUID | None:
    run = headers.get("backstay-run")
    try:
        return UUID(run) if run else None
    except ValueError:
        raise BadRequest("`backstay-run` is wrong", errors=[FieldError("backstay-run", "must be a UUID")]) from None
