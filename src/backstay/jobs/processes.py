"""Processes for CPU-bound handlers: each runs one attempt at a time, and is killed when that attempt must stop.

A process that dies fails the attempt it ran and nothing else; the next attempt gets a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
from asyncio.subprocess import PIPE, Process
from typing import TYPE_CHECKING, Any

from .process_child import ProcessContext
from .signals import Cancel, Discard, RetryLater, Snooze

if TYPE_CHECKING:
    from .handlers import Handler, JobContext

_LENGTH = 4
_SIGNALS = {"snooze": Snooze, "retry": RetryLater, "cancel": Cancel, "discard": Discard}


class Processes:
    """At most `most` of them, started when they are needed and kept for the next attempt."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._idle: list[Process] = []

    async def run(self, handler: Handler, context: JobContext, input: Any) -> None:
        """Runs one attempt; raises its outcome unless it is completed. When it is cancelled, its process is killed."""
        async with self._free:
            process = await self._one()
            try:
                outcome = await _ask(process, handler, context, input)
            except (EOFError, ConnectionError):
                raise RetryLater(f"its process died ({_how(await _killed(process))})") from None
            except BaseException:
                await asyncio.shield(_killed(process))
                raise
            self._idle.append(process)
        if outcome[0] in _SIGNALS:
            raise _SIGNALS[outcome[0]](*outcome[1:])

    async def close(self) -> None:
        """Kills what is idle."""
        while self._idle:
            await _killed(self._idle.pop())

    async def _one(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            await _killed(process)
        # A session of its own: a terminal's Ctrl-C is the worker's to answer, and its children are killed with it.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from backstay.jobs.process_child import main; main()"),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        _send(process, pickle.dumps(sys.path))
        return process


async def _ask(process: Process, handler: Handler, context: JobContext, input: Any) -> tuple[Any, ...]:
    told = ProcessContext(
        context.tenant, context.job, context.name, context.queue, context.attempt, context.fence, context.deadline
    )
    _send(process, pickle.dumps((handler.place, told, input)))
    assert process.stdin is not None  # noqa: S101 -- both are pipes
    assert process.stdout is not None  # noqa: S101
    await process.stdin.drain()
    while True:
        length = int.from_bytes(await process.stdout.readexactly(_LENGTH), "big")
        outcome: tuple[Any, ...] = pickle.loads(await process.stdout.readexactly(length))  # noqa: S301 -- our own
        if outcome[0] != "progress":
            return outcome
        context.progress(*outcome[1:])


def _send(process: Process, data: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 -- it is a pipe
    process.stdin.write(len(data).to_bytes(_LENGTH, "big") + data)


async def _killed(process: Process) -> int:
    """Ends it and what it has started. Returns its exit code."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.stdin is not None  # noqa: S101 -- it is a pipe
    process.stdin.close()
    return await process.wait()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
