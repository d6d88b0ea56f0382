"""The simulator as a server on a socket, so that its faults are real ones: resets, cuts, silence."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from ...kernel.errors import BadRequest, NotFound
from ..surfaces import surface_of
from ..wire import CHAT, EMBED, fields
from . import formats
from .options import BEHAVIOURS, EMBEDDER
from .simulator import HEADER, Reset, SimAnswer, Simulator, problem

_MAX_BODY = 32 * 1024 * 1024


class SimServer:
    """Speaks the formats of OpenAI, Anthropic and Gemini, at the paths where their clients look for them. `received`
    keeps the bodies of requests, `cancelled` counts those whose client left early."""

    def __init__(self, simulator: Simulator | None = None) -> None:
        self._simulator = simulator or Simulator()
        self.received: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.keep_bodies = False
        self.requests = 0
        self.cancelled = 0
        self.changed = asyncio.Condition()

    async def wait_for(self, *, requests: int = 0, cancelled: int = 0) -> None:
        """Returns when at least so many requests came, and so many were left by their clients."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.requests >= requests and self.cancelled >= cancelled)

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serves while the block runs; gives the base URL for OPENAI_BASE_URL. Port 0 takes a free one."""
        application = web.Application(client_max_size=_MAX_BODY)
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/{path:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, backlog=1024)
            await site.start()
            bound = runner.addresses[0][1]
            yield f"http://{host}:{bound}/v1"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with self.changed:
            self.requests += 1
            if self.keep_bodies:
                self.received.append(body)
                self.headers.append({name.lower(): value for name, value in request.headers.items()})
            self.changed.notify_all()
        try:
            return await self._send(request, body)
        except Reset:
            _break(request)
            raise web.HTTPInternalServerError from None
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            await asyncio.shield(self._notify())
            raise

    async def _send(self, request: web.Request, body: bytes) -> web.StreamResponse:
        answer = await self._asked(request, body)
        response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
        await response.prepare(request)
        async for chunk in answer.chunks:
            await response.write(chunk)
        await response.write_eof()
        return response

    async def _asked(self, request: web.Request, raw: bytes) -> SimAnswer:
        header = request.headers.get(HEADER)
        try:
            surface = surface_of(request.path.removeprefix("/openai"))  # where Azure's clients look for it
        except NotFound:
            raise web.HTTPNotFound from None
        if surface.wire in (CHAT.name, EMBED.name):
            return await self._simulator.answer(request.path, raw, header)
        try:
            body = fields.parse(raw)
        except BadRequest as error:
            return problem(400, error.detail)
        if surface.model is not None:
            body |= {"model": surface.model, "stream": surface.stream}
        return await formats.answer(self._simulator, surface.wire, surface.kind, body, header)

    async def _models(self, request: web.Request) -> web.Response:
        names = [f"sim:{name}" for name in (*BEHAVIOURS, EMBEDDER)]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "sim"} for name in names]
        return web.json_response({"object": "list", "data": data})

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def _break(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        # Lingering zero seconds makes closing a reset.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
