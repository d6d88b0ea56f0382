"""Gateway processes to race and to kill, and a look into the tables."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backstay.audit import Audit
from backstay.events import Events
from backstay.gateway import Gateway
from backstay.kernel.clock import ManualClock, SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings

HERE = Path(__file__).parent


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

    async def start(program: str = "caller.py", **orders: object) -> Caller:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / program), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
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


@pytest.fixture
async def survivor(db: Database, vault: Vault, settings: Settings, clock: SystemClock) -> AsyncIterator[Gateway]:
    """A gateway that lives an hour later than the others: whoever does not beat now is dead to it."""
    later = ManualClock(SystemClock().now() + timedelta(hours=1))
    gateway = Gateway(db, later, vault, Audit(db, later, vault), Events(db, later), settings)
    yield gateway
    await gateway.stop()


@pytest.fixture
def fetch(db: Database) -> Callable[[str], Awaitable[list[tuple[Any, ...]]]]:
    """Reads rows as the system role: `await fetch("select … from backstay.hold")`."""

    async def read(query: str) -> list[tuple[Any, ...]]:
        async with db.system_tx() as tx:
            return await (await tx.execute(query)).fetchall()

    return read
