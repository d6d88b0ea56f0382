"""Group commit: everything that waits is written in one transaction, and while it commits the next group gathers."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..kernel import telemetry

Item = TypeVar("Item")
Result = TypeVar("Result")

_sizes = telemetry.histogram(
    "backstay_gateway_batch_size", "Items in one group commit.", ["kind"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)


class Stopped(RuntimeError):
    """The batcher was stopped."""


class Batcher(Generic[Item, Result]):
    """Hands waiting items in groups to `write`, one group at a time; idle, it does nothing.

    `write` returns one result for each item, which may be an exception for its caller. When `write` itself raises and
    the group has several items, each is tried alone: one item that the database refuses must not fail its neighbours.
    """

    def __init__(self, kind: str, write: Callable[[list[Item]], Awaitable[list[Result | Exception]]], most: int = 256):
        self._write, self._most = write, most
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._size = _sizes.labels(kind)
        self._stopped = False

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """The future of the item's result. Cancelling it does not take the item back."""
        if self._stopped:
            raise Stopped("the gateway has stopped")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return future

    async def stop(self) -> None:
        """Writes what waits, then takes no more."""
        self._stopped = True
        while self._runner is not None:
            await asyncio.wait([self._runner])

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                self._size.observe(len(group))
                await self._settle(group)
        finally:
            self._runner = None

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
                _answer(future, Stopped("the gateway stopped before this was written"))
            raise error
        for (_, future), result in zip(group, results, strict=True):
            _answer(future, result)


def _answer(future: "asyncio.Future[Result]", result: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
