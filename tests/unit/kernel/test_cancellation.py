"""A cancellation leaves a block as one, whatever became of it inside."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from backstay.kernel.cancellation import cancellation_kept


async def breaks() -> None:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        raise ConnectionError("the connection broke meanwhile") from None


async def swallows() -> None:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize("inside", [breaks, swallows])
async def test_a_cancellation_that_is_lost_inside_leaves_all_the_same(inside: Callable[[], Awaitable[None]]) -> None:
    async def working() -> None:
        with cancellation_kept():
            await inside()

    task = asyncio.create_task(working())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_limit_that_runs_out_inside_is_a_timeout_outside() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            with cancellation_kept():
                await breaks()


async def test_a_limit_inside_the_block_is_not_taken_for_a_cancellation() -> None:
    with cancellation_kept(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(3600)


async def test_an_error_during_clean_up_is_told_as_it_is() -> None:
    async def working() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with cancellation_kept():
                raise ZeroDivisionError

    task = asyncio.create_task(working())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(ZeroDivisionError):
        await task
