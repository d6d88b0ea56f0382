"""A guarded HTTP client for calls to third parties: one deadline, bounded answers, judged redirects, a breaker a host.

It makes one attempt. Whether and when there is another is the caller's to decide: the errors say which kind of failure
it was, and an answer says by its status whether asking again may help (`Answer.transient`).
"""

import asyncio
from collections.abc import Hashable
from dataclasses import replace
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from .addresses import AddressGuard
from .breaker import Breakers, Permit
from .connector import GuardedConnector
from .exchange import Answer, Request
from .models import AddressRefused, Overdue, RedirectRefused, Resting, Unreachable

MOST_BYTES = 64 * 1024
_PER_HOST = 32
_OVERLOADED = 429
_SEE_OTHER = 303
_SAME_AGAIN = frozenset({307, 308})
_REDIRECTS = frozenset({301, 302, _SEE_OTHER}) | _SAME_AGAIN
_READING = frozenset({"GET", "HEAD"})
Origin = tuple[Hashable, str]


class Client:
    """A pool of guarded connections and the breakers of one process.

    A breaker stands for a `party` and an origin (scheme, host and port): what one party meets at a host does not shut
    it for another.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        breakers: Breakers[Origin] | None = None,
        most: int = MOST_BYTES,
        agent: str = "backstay",
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._guard, self._most, self._agent, self._resolver = guard, most, agent, resolver
        self._breakers = breakers or Breakers()
        self._session: aiohttp.ClientSession | None = None

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

    async def call(self, request: Request, *, party: Hashable = None) -> Answer:
        """Makes the call and returns the last answer, whatever its status.

        Raises:
            AddressRefused: the URL, or where it leads, may not be called. RedirectRefused: where it was sent on to.
            Resting: the host failed too often lately; nothing was sent.
            Unreachable: no connection, or it broke. Overdue: no whole answer in time. Either may have had its effect.
        """
        until = asyncio.get_running_loop().time() + request.timeout
        for left in reversed(range(request.redirects + 1)):
            answer = await self._ask(request, party, until)
            following = _redirected(request, answer) if left else None
            if following is None:
                return answer
            try:
                self._guard.place(following.url)
            except AddressRefused as error:
                raise RedirectRefused(f"{URL(request.url).host} redirects: {error.detail}") from None
            request = following
        raise AssertionError("the last one is always an answer")

    async def _ask(self, request: Request, party: Hashable, until: float) -> Answer:
        place = self._guard.place(request.url)
        origin = str(URL(request.url).origin())
        breaker = self._breakers.of((party, origin))
        permit = breaker.ask()
        if permit is None:
            raise Resting(place.host, breaker.retry_after)
        with permit:
            answer = await self._send(request, place.host, permit, until)
            if answer.status >= 500:
                permit.failed()
            elif answer.status != _OVERLOADED:  # too many requests of ours say nothing about its health
                permit.succeeded()
        return answer

    async def _send(self, request: Request, host: str, permit: Permit, until: float) -> Answer:
        # Compressed answers are not asked for: how large one gets would be known too late.
        own = {"user-agent": self._agent, "accept-encoding": "identity"}
        headers = own | {name.lower(): value for name, value in request.headers.items()}
        asked = self._pool().request(
            request.method, URL(request.url), headers=headers, data=request.body, allow_redirects=False
        )
        try:
            async with asyncio.timeout_at(until), asked as response:
                body, cut = await self._read(response)
                told = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, told, body, cut, request.url)
        except AddressRefused:
            raise
        except TimeoutError:
            permit.failed()
            raise Overdue(f"{host} did not answer within {request.timeout:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            permit.failed()
            raise Unreachable(f"{host} could not be reached: {_cause(error)}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """The first bytes of the answer. What comes after them closes the connection instead of being read."""
        parts = bytearray()
        async for part in response.content.iter_any():
            parts += part
            if len(parts) > self._most:
                response.close()
                return bytes(parts[: self._most]), True
        return bytes(parts), False

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=GuardedConnector(self._guard, resolver=self._resolver, limit_per_host=_PER_HOST),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("content-type", "accept"),
            )
        return self._session


def _redirected(request: Request, answer: Answer) -> Request | None:
    """The call that a redirect asks for. None: it is none, or following it would change what was meant."""
    location = answer.headers.get("location")
    if answer.status not in _REDIRECTS or not location:
        return None
    before = URL(request.url)
    try:
        after = before.join(URL(location))
        same = after.origin() == before.origin()
    except ValueError:
        raise RedirectRefused(f"{before.host} redirects to what is not a URL") from None
    if before.scheme == "https" and after.scheme == "http":
        raise RedirectRefused(f"{before.host} redirects from https to http, where anybody can read along")
    headers = request.headers if same else {}
    if request.method in _READING or answer.status in _SAME_AGAIN:
        return replace(request, url=str(after), headers=headers)
    if answer.status == _SEE_OTHER:
        return replace(request, url=str(after), headers=headers, method="GET", body=None)
    return None


def _cause(error: Exception) -> str:
    """What went wrong, without addresses: they would tell how our network is made."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no address is known for it"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "it refused the connection"
    if isinstance(error, aiohttp.ClientPayloadError | ConnectionError | aiohttp.ServerDisconnectedError):
        return "the connection broke"
    return "it does not speak HTTP as it should"
