"""How long an attempt of a step may last."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

from ..kernel.errors import TimedOut

T = TypeVar("T")


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
