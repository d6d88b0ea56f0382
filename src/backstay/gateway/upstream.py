"""The way out: HTTP to providers. The only module that knows the HTTP library.

Leaving the `async with` of an exchange, in whatever way, closes an unfinished connection at once: that is how a
provider learns that the answer is no longer wanted.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from types import TracebackType
from typing import Self

import aiohttp

from ..outbound import AddressGuard, AddressRefused
from ..outbound.connector import GuardedConnector
from .errors import ProviderFailed, ProviderTimeout, ProviderUnreachable, StreamCut
from .exchange import MAX_ANSWER_BYTES, Exchange, too_large
from .models import Timeouts


@lru_cache(maxsize=256)
def _limits(connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=connect)


class _HttpExchange:
    __slots__ = ("_response",)

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            async for part in self._response.content.iter_any():
                yield part
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _cut() from error

    async def read(self) -> bytes:
        content = self._response.content
        parts, size = [], 0
        try:
            while not content.at_eof():  # mostly once
                parts.append(await content.readany())
                size += len(parts[-1])
                if size > MAX_ANSWER_BYTES:
                    raise too_large()
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _cut() from error
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _cut() -> StreamCut:
    return StreamCut("the connection to the provider broke in the middle of its answer")


class _Post:
    """One request: entering it sends. Leaving it returns the connection when the body was read to its end, and closes
    it otherwise."""

    __slots__ = ("_response", "_sending")

    def __init__(self, sending: Awaitable[aiohttp.ClientResponse]) -> None:
        self._sending = sending

    async def __aenter__(self) -> Exchange:
        self._response = await self._sending
        return _HttpExchange(self._response)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        response = self._response
        response.close() if not response.content.at_eof() else response.release()


class Upstream:
    """A pool of connections to providers. With a `guard`, they lead to no address that it refuses; with a `proxy` (an
    http URL), they go through it."""

    def __init__(self, timeouts: Timeouts, guard: AddressGuard | None = None, proxy: str | None = None) -> None:
        self._timeouts, self._guard, self._proxy = timeouts, guard, proxy
        self._session: aiohttp.ClientSession | None = None

    @property
    def in_use(self) -> int:
        """Connections that carry a request or an answer that has not been read to its end."""
        connector = None if self._session is None else self._session.connector
        # The library counts them for its own limit, and tells nobody.
        return 0 if connector is None else len(connector._acquired)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], connect: float | None = None
    ) -> AbstractAsyncContextManager[Exchange]:
        """Sends `body` and waits for the answer's status and headers; `connect`: seconds for a connection, if not the
        usual ones.

        Raises:
            ProviderUnreachable: no connection, or one that ended before an answer began. Nothing was answered.
            ProviderTimeout: no connection in time.
        """
        return _Post(self._send(url, body, headers, connect or self._timeouts.connect))

    async def _send(self, url: str, body: bytes, headers: Mapping[str, str], connect: float) -> aiohttp.ClientResponse:
        try:
            return await self._pool().post(
                url, data=body, headers=headers, allow_redirects=False, timeout=_limits(connect), proxy=self._proxy
            )
        except aiohttp.ConnectionTimeoutError as error:
            raise ProviderTimeout("connect", connect) from error
        except AddressRefused as error:
            # As final as a key that is refused: asking again would change nothing, another target may do.
            raise ProviderFailed(error.detail, status_seen=403) from error
        except aiohttp.InvalidURL as error:
            raise ProviderUnreachable("the provider's base URL is not a URL; correct it") from error
        except (aiohttp.ClientConnectionError, ConnectionError) as error:
            raise ProviderUnreachable("the provider closed or refused the connection before it answered") from error
        except aiohttp.ClientError as error:
            raise ProviderFailed("the provider does not speak HTTP as it should") from error

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Opened at first use: a process that only calls the simulator keeps no pool.
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("user-agent", "accept-encoding", "accept"),
                read_bufsize=2**18,
                loop=asyncio.get_running_loop(),
            )
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        if self._guard is not None:
            return GuardedConnector(self._guard, limit=0, keepalive_timeout=30)
        return aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30)
