"""Real worker processes that are killed, frozen, thawed, replaced, and whose clocks jump."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

LEASE = 2.0  # seconds; a busy machine misses a shorter one, and then every worker is rescued from
OUTSIDE = "outside.txt"


class Crew:
    """Real worker processes that are killed, frozen, thawed and replaced."""

    def __init__(self, spawner: asyncio.subprocess.Process) -> None:
        self._spawner = spawner
        self.alive: set[int] = set()
        self.frozen: dict[int, float] = {}
        self.killed = self.thawed = self.jumped = self.gone = 0

    async def hire(self, freezes_in: str = "") -> None:
        assert self._spawner.stdin is not None
        assert self._spawner.stdout is not None
        self._spawner.stdin.write(f"{freezes_in}\n".encode())
        await self._spawner.stdin.drain()
        self.alive.add(int(await self._spawner.stdout.readline()))

    async def kill(self, chance: random.Random) -> None:
        victim = await self._one(chance)
        os.kill(victim, signal.SIGKILL)
        self.alive.discard(victim)
        self.killed += 1
        await self.hire()

    async def set_clock(self, chance: random.Random) -> None:
        """Some worker's clock jumps."""
        os.kill(await self._one(chance), signal.SIGUSR1)
        self.jumped += 1

    async def freeze(self, chance: random.Random, seconds: float) -> None:
        victim = await self._one(chance)
        os.kill(victim, signal.SIGSTOP)
        self.alive.discard(victim)
        self.frozen[victim] = time.monotonic() + seconds
        await self.hire()

    def thaw(self) -> None:
        """Lets zombies go on whose time is over: others have their work by now."""
        for pid, at in list(self.frozen.items()):
            if time.monotonic() >= at:
                os.kill(pid, signal.SIGCONT)
                del self.frozen[pid]
                self.alive.add(pid)
                self.thawed += 1

    async def tend(self) -> None:
        """Replaces workers that ended by themselves: whoever runs workers has something that starts them again."""
        for pid in [pid for pid in self.alive if not psutil.pid_exists(pid)]:
            self.alive.discard(pid)
            self.gone += 1
            await self.hire()

    async def _one(self, chance: random.Random) -> int:
        await self.tend()
        return chance.choice(sorted(self.alive))

    def end(self) -> None:
        for pid in self.alive | self.frozen.keys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def crew(url: str, folder: Path, size: int = 3) -> AsyncIterator[Crew]:
    """`size` workers on the database. Their log and the file of calls outside lie in `folder`."""
    log = (folder / "workers.log").open("wb")
    spawner = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("durable_worker.py")),
        url,
        str(LEASE),
        str(folder / OUTSIDE),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
    )
    workers = Crew(spawner)
    try:
        for _ in range(size):
            await workers.hire()
        yield workers
    finally:
        workers.end()
        assert spawner.stdin is not None
        spawner.stdin.close()
        await spawner.wait()
        log.close()
