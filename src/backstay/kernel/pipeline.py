"""Statements that go to the server together.

psycopg's own pipeline hands each statement to the socket by itself and waits for the socket each time. For the server
that is a message and a wake-up each, for the process a good part of what a short transaction costs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection, AsyncPipeline
from psycopg.abc import PQGen


class _Gathering(AsyncPipeline):
    def _communicate_gen(self) -> PQGen[None]:
        """Leaves what is queued in the driver's buffer. Fetching rows flushes it, and so does the pipeline's end."""
        while self.command_queue:
            self.command_queue.popleft()()
        yield from ()


@asynccontextmanager
async def gathered(connection: AsyncConnection[Any]) -> AsyncIterator[None]:
    """Statements inside leave when rows are fetched, and the rest of them at the end. None may need another's answer
    before it was fetched; one that fails says so at the next of these moments."""
    connection._pipeline = _Gathering(connection)
    async with connection.pipeline():
        yield
