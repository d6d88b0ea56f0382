"""How far running jobs are: what their handlers tell, written together twice a second.

Telling never waits for the database. A job's newest word replaces the one before, all lanes' words go in one
statement, and a row that is locked (by its own handler's transaction, say) is left for the next time.
"""

import asyncio
from collections.abc import Collection, Generator
from typing import NamedTuple

from ..kernel import telemetry
from ..kernel.db import Database
from . import store

MAX_NOTE = 500
_EVERY = 0.5  # seconds
_log = telemetry.log("jobs")


class Told(NamedTuple):
    """A job's newest word."""

    fraction: float
    note: str | None


class Done:
    """May be awaited, and need not be: a handler in a thread cannot."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


DONE = Done()


class Progress:
    """The newest word of each job that this worker holds. `held`: their fences, as the worker knows them."""

    def __init__(self, db: Database, held: Collection[int]) -> None:
        self._db, self._held = db, held
        self._told: dict[int, Told] = {}

    def tell(self, fence: int, fraction: float, note: str | None) -> None:
        """From any thread.

        Raises:
            ValueError: the fraction is not from 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress is a fraction from 0 to 1, not {fraction!r}")
        self._told[fence] = Told(float(fraction), note and _short(note))

    async def keep(self) -> None:
        """Writes what was told, for ever."""
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await self.write()
            except Exception as error:
                _log.error("progress not written; trying again", exc_info=error)

    async def write(self) -> None:
        """Writes what was told of jobs that are still held. Whatever is told meanwhile is left for the next time."""
        due = {fence: told for fence, told in self._told.copy().items() if fence in self._held}
        written: set[int] = set()
        if due:
            async with self._db.system_tx(indexed=True) as tx:
                written = await store.report_progress(tx, due)
        for fence, told in self._told.copy().items():
            if fence not in self._held or (fence in written and told is due[fence]):
                self._told.pop(fence, None)


def _short(note: str) -> str:
    """Storable, without what looks like a secret."""
    readable = note[:MAX_NOTE].replace("\0", "").encode("utf-8", "replace").decode()
    return telemetry.scrub(readable)[:MAX_NOTE]
