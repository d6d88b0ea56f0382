"""Steps side by side."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from ..kernel.errors import ConfigurationError

if TYPE_CHECKING:
    from .run import Run

T = TypeVar("T")


async def gather(run: "Run", *steps: Awaitable[T]) -> list[T]:
    """Takes steps of this run at the same time, such as `run.gather(run.step(a), run.step(b))`, and returns what they
    return, in their order.

    They are numbered in the order of the code. All have ended before an error is raised: the first one's, in the order
    of the code. After a crash only those that had not finished are repeated. Each branch is one step, which it takes at
    once: a branch with several would be numbered differently each time; use a child run for those.

    Raises:
        ConfigurationError: a branch takes a second step.
    """
    tasks = [asyncio.ensure_future(_branch(step)) for step in steps]
    for task in tasks:
        run._branches[task] = 0
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        for task in tasks:
            run._branches.pop(task, None)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    if run.over is not None:
        raise run.over
    for error in errors:
        if error is not None:
            raise error
    return [task.result() for task in tasks]


async def _branch(step: Awaitable[T]) -> T:
    return await step


def count(run: "Run", task: "asyncio.Task[object] | None") -> None:
    """Called before a step takes its number.

    Raises:
        ConfigurationError: it is the second of a branch of `gather`.
    """
    if task in run._branches:
        run._branches[task] += 1
        if run._branches[task] > 1:
            raise ConfigurationError(
                "a branch of run.gather takes a second step, whose number would depend on which branch is faster: "
                "give each branch one step, or start a child run for it"
            )
