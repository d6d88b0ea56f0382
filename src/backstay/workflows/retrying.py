"""An attempt of a step, and how long it may last."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypedDict, TypeVar

from ..jobs import Retry
from ..kernel.errors import TimedOut

T = TypeVar("T")


class How(TypedDict, total=False):
    """How a step is taken."""

    name: str | None
    retry: Retry | None
    timeout: timedelta | None


async def in_time(attempt: Awaitable[T], timeout: timedelta | None) -> T:
    """What the attempt returns.

    Raises:
        TimedOut: it took longer than `timeout`, and was cancelled.
    """
    if timeout is None:
        return await attempt
    try:
        async with asyncio.timeout(timeout.total_seconds()) as limit:
            return await attempt
    except TimeoutError:
        if limit.expired():
            raise TimedOut(f"it took longer than its timeout of {timeout.total_seconds():g} seconds") from None
        raise


async def called(fn: Callable[..., Any], args: tuple[Any, ...], extra: dict[str, Any]) -> Any:
    """What `fn` returns. One that is not async runs in a thread."""
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None)):  # noqa: B004
        return await fn(*args, **extra)
    value = await asyncio.to_thread(fn, *args, **extra)
    return await value if inspect.isawaitable(value) else value
