"""Streams on the test's own database, a second process' worth of them, and a real server in front."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest
import uvicorn

from backstay.app import App
from backstay.kernel.clock import SystemClock
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings
from backstay.streams import Streams


@pytest.fixture
def streams(db: Database, clock: SystemClock, settings: Settings) -> Streams:
    return Streams(db, clock, settings)


@pytest.fixture
async def replica(database_url: str, clock: SystemClock, settings: Settings) -> AsyncIterator[Streams]:
    """Streams as another process has them: pools and LISTEN connection of their own."""
    async with Database(database_url, settings) as other:
        yield Streams(other, clock, settings)


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
async def server(app: App, household) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the App behind a real uvicorn on loopback."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
    running = _Quiet(config)
    serving = asyncio.create_task(running.serve())
    await eventually(lambda: running.started, serving)
    port = running.servers[0].sockets[0].getsockname()[1]
    headers = {"authorization": f"Bearer {household.key}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10) as client:
        yield client
    running.should_exit = True
    running.force_exit = True
    await serving


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Awaitable[None]]:
    return eventually


async def eventually(
    true: Callable[[], bool | Awaitable[bool]], watched: asyncio.Task[None] | None = None, seconds: float = 5
) -> None:
    """Returns once `true()` holds; fails after `seconds`, or when the task it depends on ends."""
    async with asyncio.timeout(seconds):
        while True:
            held = true()
            if held if isinstance(held, bool) else await held:
                return
            if watched is not None and watched.done():
                watched.result()
                raise AssertionError("the task that this waits for has ended")
            await asyncio.sleep(0.01)
