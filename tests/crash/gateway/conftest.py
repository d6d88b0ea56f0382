"""Gateway processes to race and to kill."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

CALLER = Path(__file__).with_name("caller.py")


class Caller:
    """One process; `go` lets it make its calls, `kill` is kill -9."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def go(self) -> None:
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()

    async def result(self) -> dict[str, int]:
        line = await self._process.stdout.readline()
        await self._process.wait()
        return json.loads(line)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()


Spawn = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def spawn(settings: Settings, owner: Principal, tmp_path: Path) -> AsyncIterator[Spawn]:
    made: list[Caller] = []

    async def start(**orders: object) -> Caller:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CALLER), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        made.append(Caller(process))
        everything = {
            "database_url": settings.database_url,
            "master_key": settings.master_key.get_secret_value(),
            "data_dir": str(tmp_path),
            "tenant": str(owner.tenant),
            "id": str(owner.id),
            "key": str(owner.key),
            **orders,
        }
        process.stdin.write(json.dumps(everything).encode() + b"\n")
        assert await process.stdout.readline() == b"ready\n"
        return made[-1]

    yield start
    for caller in made:
        await caller.kill()
