"""A gateway on the test's database, its admission alone, the simulator as a provider, and a look into the tables."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
import uvicorn

from backstay.audit import Audit
from backstay.auth import Auth
from backstay.events import Events
from backstay.gateway import Gateway, Timeouts, Usage
from backstay.gateway.admission import Admission
from backstay.gateway.front import GatewayFront
from backstay.gateway.models import Admitted, Attempt, Mode, Reservation, Settlement, Tags
from backstay.gateway.providers import Provider
from backstay.gateway.sim.server import SimServer
from backstay.kernel.cache import Cache
from backstay.kernel.cache_postgres import PostgresStore
from backstay.kernel.clock import Clock, SystemClock
from backstay.kernel.corked import CorkedProtocol
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.ids import new_id
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings


@pytest.fixture
def until() -> Callable[..., Awaitable[Any]]:
    """Waits for rows that another task or process commits: `await until(lambda: rows("select …"))`."""
    return _until


async def _until(check: Callable[[], Awaitable[Any]]) -> Any:
    """What `check` gives, as soon as it gives something. The test's own timeout bounds it."""
    while not (found := await check()):  # noqa: ASYNC110 -- another process commits it: there is no event to wait for
        await asyncio.sleep(0.02)
    return found


MakeGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def audit(db: Database, clock: SystemClock, vault: Vault) -> Audit:
    return Audit(db, clock, vault)


@pytest.fixture
async def provider() -> AsyncIterator[SimServer]:
    """The simulator, listening; `provider.url` is its base URL."""
    server = SimServer()
    server.keep_bodies = True
    async with server.running() as url:
        server.url = url  # type: ignore[attr-defined]
        yield server


@pytest.fixture
async def make_gateway(
    db: Database, clock: SystemClock, vault: Vault, audit: Audit, settings: Settings
) -> AsyncIterator[MakeGateway]:
    """Makes started gateways: `await make_gateway(base_url=…, timeouts=…, clock=…, durability=…)`."""
    async with AsyncExitStack() as stack:

        async def make(
            base_url: str | None = None,
            timeouts: Timeouts | None = None,
            clock: Clock = clock,
            providers: Sequence[Provider] | None = None,
            **changes: Any,
        ) -> Gateway:
            changed = settings.model_copy(update={"openai_base_url": base_url, "unknown_price": "1", **changes})
            cache = Cache(PostgresStore(db, clock), clock)
            gateway = Gateway(
                db, clock, vault, audit, Events(db, clock), changed, cache=cache, timeouts=timeouts, providers=providers
            )
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            return gateway

        yield make


@pytest.fixture
async def gateway(make_gateway: MakeGateway, provider: SimServer) -> Gateway:
    """Its providers `openai`, `anthropic` and `gemini` are the simulator on a socket: `openai:sim:echo`."""
    root = provider.url.removesuffix("/v1")  # type: ignore[attr-defined]
    return await make_gateway(
        provider.url,  # type: ignore[attr-defined]
        anthropic_base_url=root,
        gemini_base_url=root,
    )


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The ASGI application on a real server; gives its root URL."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="error", ws="none", http=CorkedProtocol)
    server = uvicorn.Server(config)
    sockets = [config.bind_socket()]
    task = asyncio.create_task(server.serve(sockets))
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        for sock in sockets:
            sock.close()


@pytest.fixture
def serve() -> Callable[[Any], Any]:
    """Serves an ASGI application of a test's own: `async with serve(app) as root`."""
    return served


@pytest.fixture
async def url(gateway: Gateway, auth: Auth) -> AsyncIterator[str]:
    """The front on a real server."""
    async with served(GatewayFront(gateway, auth.authenticate, heartbeat=0.2)) as url:
        yield url


@pytest.fixture
async def http(url: str, household: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {household.key}"}) as http:
        yield http


class Caller:
    """Takes calls through admission and settlement, without a provider."""

    def __init__(self, admission: Admission, by: Principal, clock: Clock) -> None:
        self.admission, self._by, self._clock = admission, by, clock

    async def admit(
        self,
        usd: str = "0",
        tokens: int = 0,
        *,
        feature: str = "f",
        user: str | None = None,
        model: str = "m",
        mode: Mode = Mode.STRICT,
    ) -> Admitted:
        tags = Tags(self._by.tenant, self._by.id, self._by.name, feature, user, self._by.key)
        return await self.admission.admit(
            Reservation(
                id=new_id(),
                tags=tags,
                provider="test",
                model=model,
                kind="chat",
                streamed=True,
                reserve=Decimal(usd),
                payload={},
                at=self._clock.now(),
                tokens=tokens,
                mode=mode,
            )
        )

    async def end(self, call: Admitted, usd: str = "0", tokens: int = 0, outcome: str = "ok") -> None:
        """Settles `call`; of the tokens, a fourth was read and the rest written."""
        usage = Usage(tokens // 4, tokens - tokens // 4)
        attempt = Attempt(call.reservation.provider, call.reservation.model, outcome, usage, Decimal(usd), 0.1)
        await self.admission.settle(Settlement(call, outcome, (attempt,), {}, self._clock.now()))

    async def spend(self, usd: str = "0", tokens: int = 0, **about: Any) -> Admitted:
        """A whole call that uses what it reserved."""
        call = await self.admit(usd, tokens, **about)
        await self.end(call, usd, tokens)
        return call


MakeCaller = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def make_caller(db: Database, audit: Audit, owner: Principal) -> AsyncIterator[MakeCaller]:
    """Makes callers, each as a process of its own would: `await make_caller(clock, by=other_owner)`."""
    async with AsyncExitStack() as stack:

        async def make(clock: Clock, by: Principal = owner) -> Caller:
            admission = Admission(db, clock, audit, Events(db, clock), new_id(), timedelta(seconds=30))
            await admission.beat()
            stack.push_async_callback(admission.stop)
            return Caller(admission, by, clock)

        yield make


Rows = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def rows(db: Database) -> Rows:
    """Reads rows as the system role: `await rows("select … from backstay.hold")`."""

    async def read(query: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        async with db.system_tx() as tx:
            cursor = await tx.execute(query, params)
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    return read
