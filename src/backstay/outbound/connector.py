"""The connector that guarded calls go through: no connection is made to an address that the guard refuses.

    session = aiohttp.ClientSession(connector=GuardedConnector(guard))

Nothing has to be called beforehand, so nothing can be forgotten. Three gates, each for what the others cannot see: the
URL and an address written in it (every request, also one that a redirect leads to), all addresses of a name (every new
connection; the connection then goes to these, whatever the name says a moment later), and the socket's own address.
"""

import asyncio
import errno
import socket
from ipaddress import ip_address
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ..kernel.errors import ConfigurationError
from .addresses import AddressGuard
from .models import Address, Destination, HostUnresolved

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class GuardedResolver(AbstractResolver):
    """Looks names up with `inner` (the system's resolver by default), and passes on only what the guard lets through.

    A look-up may take `limit` seconds.
    """

    def __init__(self, guard: AddressGuard, inner: AbstractResolver | None = None, *, limit: float = 5.0) -> None:
        self._guard, self._inner, self._limit = guard, inner, limit

    async def check(self, url: str) -> Destination:
        """Where `url` leads now. For telling early, when a URL is stored, that calls to it would be refused.

        A name can lead elsewhere by the time it is called: only a `GuardedConnector` makes a call safe.

        Raises:
            AddressRefused: the URL, or an address of its host, may not be called.
            HostUnresolved: its host has no address for now.
        """
        place = self._guard.place(url)
        if place.address is not None:
            return Destination(place.host, place.port, (place.address,))
        try:
            _, addresses = await self._look_up(place.host, place.port, socket.AF_UNSPEC)
        except OSError:
            raise HostUnresolved(
                f"no address is known for {place.host}; check how it is written, or try again later"
            ) from None
        self._guard.judge(place.host, addresses)
        return Destination(place.host, place.port, addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`, all of them allowed.

        Raises:
            AddressRefused: one of them is not.
            OSError: there is none, or no answer in time.
        """
        found, addresses = await self._look_up(host, port, family)
        self._guard.judge(host, addresses)
        return found

    async def close(self) -> None:
        if self._inner is not None:
            await self._inner.close()

    async def _look_up(
        self, host: str, port: int, family: socket.AddressFamily
    ) -> tuple[list[ResolveResult], tuple[Address, ...]]:
        inner = self._inner or aiohttp.ThreadedResolver()
        try:
            async with asyncio.timeout(self._limit):
                found = await inner.resolve(host, port, family)
            addresses = tuple(ip_address(result["host"]) for result in found)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the name server did not answer in time") from None
        except ValueError:
            raise OSError(errno.EINVAL, "the host is not a name that can be looked up") from None
        if not addresses:
            raise OSError(errno.ENOENT, "the host has no address")
        return found, addresses


class GuardedConnector(aiohttp.TCPConnector):
    """A pool of connections that only lead where the guard allows. Host header and TLS name stay those of the URL.

    `resolver` is what names are looked up with (the system's resolver by default). Addresses are not cached: each new
    connection asks again.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        resolver: AbstractResolver | None = None,
        limit: int = 0,
        limit_per_host: int = 0,
        keepalive_timeout: float = 30.0,
        ssl: SSLContext | bool = True,
    ) -> None:
        self._guard = guard
        super().__init__(
            resolver=GuardedResolver(guard, resolver),
            socket_factory=self._socket,
            use_dns_cache=False,
            limit=limit,
            limit_per_host=limit_per_host,
            keepalive_timeout=keepalive_timeout,
            ssl=ssl,
        )

    async def connect(
        self, req: "ClientRequest", traces: "list[Trace]", timeout: aiohttp.ClientTimeout
    ) -> "Connection":
        if req.proxy is not None:
            raise ConfigurationError("guarded calls do not go through a proxy, which would choose the address itself")
        self._guard.place(req.url)
        return await super().connect(req, traces, timeout)

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The last gate. It is not reached with a refused address unless the client's own way to it has changed."""
        family, kind, protocol, _, address = info
        if self._guard.objection(ip_address(address[0])):
            raise PermissionError(errno.EACCES, "the address may not be called")
        return socket.socket(family, kind, protocol)
