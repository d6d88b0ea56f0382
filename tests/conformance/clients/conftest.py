"""A backend as a user starts it, for clients of other people: its providers are the simulator, in every format."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from backend import Backend
from backstay.gateway.sim.server import SimServer

_READY_WITHIN = 10.0


class Simulated:
    """The simulator on a socket, in a thread of its own, so that clients which block can be tested as well."""

    def __init__(self) -> None:
        self.server = SimServer()
        self._url: Future[str] = Future()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()], daemon=True)

    @property
    def root(self) -> str:
        """Its address, without OpenAI's `/v1`."""
        return self._url.result(_READY_WITHIN).removesuffix("/v1")

    def wait_for_cancelled(self, count: int, within: float) -> None:
        """Returns when so many requests were left by whoever asked.

        Raises:
            TimeoutError: they were not.
        """
        waiting = asyncio.run_coroutine_threadsafe(self.server.wait_for(cancelled=count), self._loop)
        try:
            waiting.result(within)
        finally:
            waiting.cancel()

    async def _serve(self) -> None:
        async with self.server.running() as url:
            self._url.set_result(url)
            await self._over.wait()

    def __enter__(self) -> "Simulated":
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_READY_WITHIN)
        with contextlib.suppress(RuntimeError):  # it hangs: the thread ends with the process
            self._loop.close()


@pytest.fixture(scope="session")
def simulated() -> Iterator[Simulated]:
    with Simulated() as simulated:
        yield simulated


@pytest.fixture(scope="session")
def backend(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """`backstay up`, whose providers `openai`, `anthropic` and `gemini` are the simulator."""
    root = simulated.root
    backend = Backend(
        tmp_path_factory.mktemp("clients") / "data",
        OPENAI_BASE_URL=f"{root}/v1",
        ANTHROPIC_BASE_URL=root,
        GOOGLE_GEMINI_BASE_URL=root,
        BACKSTAY_UNKNOWN_PRICE="1",
        BACKSTAY_WORKERS="0",
    )
    try:
        yield backend.start()
    finally:
        backend.end()


@pytest.fixture(scope="session")
def address(backend: Backend) -> str:
    """The root of the gateway's surfaces."""
    return backend.address


@pytest.fixture(scope="session")
def key(backend: Backend) -> str:
    return backend.admin_key
