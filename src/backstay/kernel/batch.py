"""Group commit: everything that waits is written in one transaction, and while it commits the next group gathers."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain
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


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    """`then`: is told what came of the item. `future`: of whoever waits for it, who gives up at the time `until`."""

    item: Item
    then: Callable[[Result | Exception], None] | None
    future: "asyncio.Future[Result] | None"
    until: float

    def answer(self, result: Result | Exception) -> None:
        future = self.future
        if future is not None and not future.done():
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if self.then is not None:
            self.then(result)


class Batcher(Generic[Item, Result]):
    """Hands waiting items in groups to `write`, at most `lanes` groups at a time; idle, it does nothing.

    `write` returns one result for each item, which may be an exception for its caller. When `write` itself raises and
    the group has several items, each is tried alone: one item that the database refuses must not fail its neighbours.
    With more than one lane a later item may be written before an earlier one. `patience`: after so many seconds whoever
    waits gets a TimeoutError; the item is written all the same.
    """

    def __init__(
        self,
        kind: str,
        write: Callable[[list[Item]], Awaitable[list[Result | Exception]]],
        most: int = 256,
        lanes: int = 1,
        patience: float | None = None,
    ) -> None:
        self._write, self._most, self._lanes, self._patience = write, most, lanes, patience
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._written: list[list[_Waiting[Item, Result]]] = []  # groups on their way
        self._runners: set[asyncio.Task[None]] = set()
        self._starting = False  # a lane is about to take what waits
        self._watching = False  # a timer looks after those who wait
        self._size = _sizes.labels(kind)
        self._stopped = False

    def submit(self, item: Item, then: Callable[[Result | Exception], None] | None = None) -> "asyncio.Future[Result]":
        """The future of the item's result. Cancelling it does not take the item back: `then`, which must not raise, is
        told in any case what came of it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._add(item, then, future)
        return future

    def post(self, item: Item, then: Callable[[Result | Exception], None]) -> None:
        """As `submit`, where nobody waits."""
        self._add(item, then, None)

    async def stop(self) -> None:
        """Writes what waits, then takes no more."""
        self._stopped = True
        while self._runners:
            await asyncio.wait(self._runners)

    def _add(
        self,
        item: Item,
        then: Callable[[Result | Exception], None] | None,
        future: "asyncio.Future[Result] | None",
    ) -> None:
        if self._stopped:
            raise Stopped("nothing more is written: this part of the process has stopped")
        until = math.inf
        if self._patience is not None and future is not None:
            until = future.get_loop().time() + self._patience
            if not self._watching:
                self._watching = True
                future.get_loop().call_at(until, self._look_after)
        self._waiting.append(_Waiting(item, then, future, until))
        if not self._starting and len(self._runners) < self._lanes:
            self._starting = True
            runner = asyncio.create_task(self._run())
            self._runners.add(runner)
            runner.add_done_callback(self._ended)

    def _look_after(self) -> None:
        """One timer for all: a timer for each item would cost more than writing it."""
        loop, next_end = asyncio.get_running_loop(), math.inf
        now = loop.time()
        for one in chain(*self._written, self._waiting):
            if one.future is None or one.future.done():
                continue
            if one.until <= now:
                one.future.set_exception(TimeoutError())
            else:
                next_end = min(next_end, one.until)
        self._watching = next_end < math.inf
        if self._watching:
            loop.call_at(next_end, self._look_after)

    async def _run(self) -> None:
        self._starting = False
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            self._size.observe(len(group))
            self._written.append(group)
            try:
                await self._settle(group)
            finally:
                self._written.remove(group)
        # In the same breath as finding nothing: what is submitted from now on needs a lane.
        self._runners.discard(asyncio.current_task())

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._starting = False  # should it have been cancelled before it began
        self._runners.discard(runner)

    async def _settle(self, group: list[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._write([one.item for one in group])
        except Exception as error:
            if len(group) == 1:
                group[0].answer(error)
                return
            for one in group:
                await self._settle([one])
            return
        except BaseException as error:
            for one in group:
                one.answer(Stopped("this part of the process stopped before this was written"))
            raise error
        half = len(group) // 2 if self._lanes > 1 and len(group) >= _WORTH_HALVING else 0
        answers = list(zip(group, results, strict=True))
        for one, result in answers[:half]:
            one.answer(result)
        try:
            if half:
                # Those whose answers come together come again together, in one group: while it is written all of them
                # would wait, and while they work the database would.
                await asyncio.sleep(0)
        finally:
            for one, result in answers[half:]:
                one.answer(result)
