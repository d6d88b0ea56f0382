"""The way out: HTTP to providers. The only module that knows the HTTP library.

Leaving the `async with` of an exchange, in whatever way, closes an unfinished connection at once: that is how a
provider learns that the answer is no longer wanted.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp

from ..outbound import AddressGuard, AddressRefused
from ..outbound.connector import GuardedConnector
from .errors import ProviderFailed, ProviderTimeout, ProviderUnreachable, StreamCut
from .exchange import Exchange
from .models import Timeouts


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
            raise StreamCut("the connection to the provider broke in the middle of its answer") from error


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

    @asynccontextmanager
    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], connect: float | None = None
    ) -> AsyncIterator[Exchange]:
        """Sends `body` and waits for the answer's status and headers; `connect`: seconds for a connection, if not the
        usual ones.

        Raises:
            ProviderUnreachable: no connection, or one that ended before an answer began. Nothing was answered.
            ProviderTimeout: no connection in time.
        """
        response = await self._send(url, body, headers, connect or self._timeouts.connect)
        try:
            yield _HttpExchange(response)
        finally:
            # Returns the connection when the body was read to its end, and closes it otherwise.
            response.close() if not response.content.at_eof() else response.release()

    async def _send(self, url: str, body: bytes, headers: Mapping[str, str], connect: float) -> aiohttp.ClientResponse:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=connect)
        try:
            return await self._pool().post(
                url, data=body, headers=headers, allow_redirects=False, timeout=limits, proxy=self._proxy
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
