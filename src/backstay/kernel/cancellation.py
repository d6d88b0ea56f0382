"""A cancellation that is not lost on the way through the database."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Lets a cancellation that arrives inside leave as one, at the end of the block if need be.

    Two things swallow it. `asyncio.wait_for` of Python 3.11, by which the pool waits for a connection, returns its
    result when that comes in the same moment; and a statement that breaks while the driver cancels it may end with its
    own error. A loop that outlives such errors would go on, and whoever cancelled it would wait for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except Exception as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
