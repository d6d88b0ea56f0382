"""Group commit: everything that waits is written in one transaction, and while it commits the next group gathers."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from . import telemetry

Item = TypeVar("Item")
Result = TypeVar("Result")

_sizes = telemetry.histogram(
    "backstay_batch_size", "Items in one group commit.", ["kind"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
)
_WORTH_HALVING = 192  # below, two groups cost more than it brings that one is written while the other works


class Stopped(RuntimeError):
    """The batcher was stopped."""


class Batcher(Generic[Item, Result]):
    """Hands waiting items in groups to `write`, at most `lanes` groups at a time; idle, it does nothing.

    `write` returns one result for each item, which may be an exception for its caller. When `write` itself raises and
    the group has several items, each is tried alone: one item that the database refuses must not fail its neighbours.
    With more than one lane a later item may be written before an earlier one.
    """

    def __init__(
        self,
        kind: str,
        write: Callable[[list[Item]], Awaitable[list[Result | Exception]]],
        most: int = 256,
        lanes: int = 1,
    ) -> None:
        self._write, self._most, self._lanes = write, most, lanes
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._runners: set[asyncio.Task[None]] = set()
        self._starting = False  # a lane is about to take what waits
        self._size = _sizes.labels(kind)
        self._stopped = False

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """The future of the item's result. Cancelling it does not take the item back."""
        if self._stopped:
            raise Stopped("nothing more is written: this part of the process has stopped")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._starting and len(self._runners) < self._lanes:
            self._starting = True
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._ended)
        return future

    async def stop(self) -> None:
        """Writes what waits, then takes no more."""
        self._stopped = True
        while self._runners:
            await asyncio.wait(self._runners)

    async def _run(self) -> None:
        self._starting = False
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            self._size.observe(len(group))
            await self._settle(group)
        # In the same breath as finding nothing: what is submitted from now on needs a lane.
        self._runners.discard(asyncio.current_task())

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._starting = False  # should it have been cancelled before it began
        self._runners.discard(runner)

    async def _settle(self, group: "list[tuple[Item, asyncio.Future[Result]]]") -> None:
        try:
            results = await self._write([item for item, _ in group])
        except Exception as error:
            if len(group) == 1:
                _answer(group[0][1], error)
                return
            for pair in group:
                await self._settle([pair])
            return
        except BaseException as error:
            for _, future in group:
                _answer(future, Stopped("this part of the process stopped before this was written"))
            raise error
        half = len(group) // 2 if self._lanes > 1 and len(group) >= _WORTH_HALVING else 0
        answers = [(future, result) for (_, future), result in zip(group, results, strict=True)]
        for future, result in answers[:half]:
            _answer(future, result)
        try:
            if half:
                # Those whose answers come together come again together, in one group: while it is written all of them
                # would wait, and while they work the database would.
                await asyncio.sleep(0)
        finally:
            for future, result in answers[half:]:
                _answer(future, result)


def _answer(future: "asyncio.Future[Result]", result: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
