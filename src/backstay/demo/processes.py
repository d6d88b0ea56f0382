"""The demo's processes: real ones, each in its own session, ended on every way out."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ..kernel.errors import BackstayError

_PATIENCE = 15.0  # seconds a process gets to end by itself


class ProcessFailed(BackstayError):
    code, status, title = "demo_process_failed", 500, "A process of the demo ended"


@dataclass(slots=True)
class Child:
    """One process of ours, and the file that has what it says."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    def failure(self) -> ProcessFailed:
        """Why the demo cannot go on, with what the process said last."""
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
        lines = "\n".join(f"  | {line}" for line in said) or "  | (nothing)"
        return ProcessFailed(f"{self.name} ended with code {self.process.returncode}. It said last:\n{lines}")


class Processes:
    """Starts `backstay` processes that share one folder. Leaving ends them all."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, dict(environment)
        self._children: list[Child] = []

    async def start(self, name: str, *arguments: str) -> Child:
        """Starts `backstay <arguments>` with this Python."""
        log = self._folder / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-m", "backstay", *arguments],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends its processes in order
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raises ProcessFailed when a process has ended that nobody killed."""
        for child in self._children:
            if child.ended:
                raise child.failure()

    async def kill(self, child: Child) -> None:
        """kill -9: the process gets no chance to say goodbye."""
        self._children.remove(child)
        os.kill(child.pid, signal.SIGKILL)
        await child.process.wait()

    async def end(self) -> None:
        """Asks every process to end, last started first, and kills those that do not."""
        for child in reversed(self._children):
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        for child in reversed(self._children):
            try:
                async with asyncio.timeout(_PATIENCE):
                    await child.process.wait()
            except TimeoutError:
                child.process.kill()
                await child.process.wait()
        self._children.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.end())


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Our environment without settings of another Backstay, which must not reach the demo."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKSTAY_")}
    kept.pop("PROMETHEUS_MULTIPROC_DIR", None)
    return kept | {"BACKSTAY_DATA_DIR": str(folder), "BACKSTAY_HOST": "127.0.0.1"} | settings
