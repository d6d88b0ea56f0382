"""The demo's view of a running Backstay: plain HTTP and server-sent events, as any client would."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import aiohttp

from ..kernel.errors import BackstayError
from .sse import Event, Parser

_PAGE = 200
_PATIENCE = 60.0  # seconds an answer may pause, a crash and its lease included


class RequestFailed(BackstayError):
    code, status, title = "demo_request_failed", 500, "A request of the demo failed"


class Client:
    """One API key's HTTP client."""

    def __init__(self, address: str, key: str) -> None:
        self.address = address
        # a stream may be quiet for long, and may be long
        timeout = aiohttp.ClientTimeout(total=None, connect=10, sock_read=_PATIENCE)
        self._http = aiohttp.ClientSession(address, headers={"authorization": f"Bearer {key}"}, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def ready(self) -> bool:
        try:
            async with self._http.get("/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def get(self, path: str, **query: Any) -> Any:
        return await self._send("GET", path, params=query)

    async def post(self, path: str, body: Any) -> Any:
        return await self._send("POST", path, json=body)

    async def put(self, path: str, body: Any) -> Any:
        return await self._send("PUT", path, json=body)

    async def every(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """The items of every page."""
        items: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.get(path, limit=_PAGE, **query, **cursor)
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}

    async def events(self, path: str, after: int = 0) -> AsyncIterator[Event]:
        """Events behind `after`, until the server ends the body or the caller leaves."""
        headers = {"last-event-id": str(after)} if after else {}
        try:
            async with self._http.get(path, headers=headers) as answer:
                if answer.status == 204:
                    return
                if answer.status != 200:
                    raise RequestFailed(f"GET {path} was answered with {answer.status}: {await _detail(answer)}")
                parser = Parser()
                async for piece in answer.content.iter_any():
                    for event in parser.feed(piece):
                        yield event
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return  # cut off: the caller resumes behind the last event it has
        except TimeoutError:
            raise RequestFailed(f"nothing came on the stream for {_PATIENCE:g} seconds") from None

    async def _send(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            async with self._http.request(method, path, **arguments) as answer:
                if answer.status >= 400:
                    raise RequestFailed(f"{method} {path} was answered with {answer.status}: {await _detail(answer)}")
                return await answer.json() if answer.status != 204 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RequestFailed(f"{method} {path} got no answer: {error or type(error).__name__}") from None


async def _detail(answer: aiohttp.ClientResponse) -> str:
    text = await answer.text()
    try:
        return str((await answer.json(content_type=None))["detail"])
    except (ValueError, KeyError, TypeError):
        return text[:300]


async def until_ready(client: Client, alive: Any, seconds: float = 60.0) -> None:
    """Waits for the API; `alive()` raises when its process has ended."""
    try:
        async with asyncio.timeout(seconds):
            while not await client.ready():
                alive()
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise RequestFailed(f"the API at {client.address} was not ready after {seconds:g} seconds") from None
