import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from backstay.app import App
from backstay.jobs import JobDetail
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings


class Service:
    """A third party on loopback. It remembers what reached it, and answers what `then` says."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.then: Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]] = lambda _: web.Response(
            text="done"
        )
        self.port = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.seen.append({"path": request.path, "method": request.method, "body": body, "headers": request.headers})
        answer = self.then(request)
        return await answer if isinstance(answer, Awaitable) else answer


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Waits for a condition, and fails when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 -- the condition is another process' doing
            await asyncio.sleep(0.02)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    server = web.Server(made.handle)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The third parties of these tests are on loopback, and `localhost` is a name that leads there."""
    return settings.model_copy(update={"lease_seconds": 30.0, "private_networks": "127.0.0.1/32,::1/128"})


@pytest.fixture
def run(app: App, owner: Principal) -> Callable[[UUID], Awaitable[JobDetail]]:
    """Has a worker do what is waiting; a job that is to be repeated or comes later is brought forward first."""

    async def run(job: UUID) -> JobDetail:
        found = await app.jobs.get(owner, job)
        if found.state in ("retryable", "scheduled"):
            await app.jobs.retry(owner, job)
        async with asyncio.timeout(20):
            await app.jobs.worker().run_until_idle()
        return await app.jobs.get(owner, job)

    return run
