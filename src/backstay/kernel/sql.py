"""Named queries: SQL lives in a room's `queries.sql`, Python calls it by name.

A query starts at a line `-- name: fire_due`; the comment lines under it say what it is for. Parameters are
written `%(name)s`. A test PREPAREs every query of every room against the migrated schema.
"""

import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.rows import kwargs_row, tuple_row

from . import telemetry

if TYPE_CHECKING:
    from psycopg import AsyncCursor

    from .db import Tx

T = TypeVar("T")
_NAME = re.compile(r"^-- name:\s*(\w+)\s*$", re.MULTILINE)
_seconds = telemetry.histogram("backstay_query_seconds", "Time of each named query.", ["query"])
_log = telemetry.log("sql")


class Query:
    """One named query. The methods differ in what they promise about the rows."""

    slow_seconds = 0.5  # set from the settings when a Database is made

    def __init__(self, room: str, name: str, text: str) -> None:
        self.room, self.name, self.text = room, name, text
        self._sql = text
        self._timer = _seconds.labels(f"{room}.{name}")

    async def one(self, tx: "Tx", model: Callable[..., T], **params: Any) -> T:
        """Exactly one row."""
        row = await self.maybe(tx, model, **params)
        if row is None:
            raise LookupError(f"query {self.room}.{self.name} promised a row and returned none")
        return row

    async def maybe(self, tx: "Tx", model: Callable[..., T], **params: Any) -> T | None:
        """The first row, or None."""
        async with tx.connection.cursor(row_factory=kwargs_row(model)) as cursor:
            await self._execute(cursor, params)
            return await cursor.fetchone()

    async def all(self, tx: "Tx", model: Callable[..., T], **params: Any) -> list[T]:
        """Every row."""
        async with tx.connection.cursor(row_factory=kwargs_row(model)) as cursor:
            await self._execute(cursor, params)
            return await cursor.fetchall()

    async def stream(
        self, tx: "Tx", model: Callable[..., T], size: int = 500, **params: Any
    ) -> AsyncGenerator[T, None]:
        """Every row, `size` of them in memory at a time. The transaction must stay open until the last one, and may do
        other work meanwhile. Close it (`aclosing`) when leaving early."""
        async with tx.connection.cursor(name=f"{self.room}_{self.name}", row_factory=kwargs_row(model)) as cursor:
            cursor.itersize = size
            start = time.perf_counter()
            await cursor.execute(self._sql, params)
            self._observe(start)
            async for row in cursor:
                yield row

    async def rows(self, tx: "Tx", **params: Any) -> list[tuple[Any, ...]]:
        """Every row as a tuple, for hot paths."""
        async with tx.connection.cursor(row_factory=tuple_row) as cursor:
            await self._execute(cursor, params)
            return await cursor.fetchall()

    async def binary_rows(self, tx: "Tx", **params: Any) -> list[tuple[Any, ...]]:
        """The same in the server's own format: bytes come as they are, not as twice as many digits."""
        async with tx.connection.cursor(binary=True, row_factory=tuple_row) as cursor:
            await self._execute(cursor, params)
            return await cursor.fetchall()

    async def send(self, tx: "Tx", model: Callable[..., T], **params: Any) -> Callable[[], Awaitable[list[T]]]:
        """Within a pipeline. Returns what reads every row, to be called once after it."""
        cursor = tx.connection.cursor(row_factory=kwargs_row(model))
        start = time.perf_counter()
        await cursor.execute(self._sql, params)

        async def fetch() -> list[T]:
            async with cursor:
                found = await cursor.fetchall()
            self._observe(start)
            return found

        return fetch

    async def send_rows(self, tx: "Tx", **params: Any) -> Callable[[], Awaitable[list[tuple[Any, ...]]]]:
        """As `send`, with every row as a tuple; prepared the first time already, for what is always asked again."""
        cursor = tx.connection.cursor(row_factory=tuple_row)
        start = time.perf_counter()
        await cursor.execute(self._sql, params, prepare=True)

        async def fetch() -> list[tuple[Any, ...]]:
            found = await cursor.fetchall()
            self._observe(start)
            return found

        return fetch

    async def value(self, tx: "Tx", **params: Any) -> Any:
        """The first column of the first row, or None."""
        async with tx.connection.cursor(row_factory=tuple_row) as cursor:
            await self._execute(cursor, params)
            row = await cursor.fetchone()
            return row[0] if row else None

    async def run(self, tx: "Tx", **params: Any) -> int:
        """For effect; returns how many rows were touched."""
        async with tx.connection.cursor() as cursor:
            await self._execute(cursor, params)
            return cursor.rowcount

    async def many(self, tx: "Tx", rows: Iterable[Mapping[str, Any]]) -> None:
        """Once for each mapping, in as few round trips as the driver can."""
        start = time.perf_counter()
        async with tx.connection.cursor() as cursor:
            await cursor.executemany(self._sql, list(rows))
        self._observe(start)

    async def _execute(self, cursor: "AsyncCursor[Any]", params: Mapping[str, Any]) -> None:
        start = time.perf_counter()
        await cursor.execute(self._sql, params)
        self._observe(start)

    def _observe(self, start: float) -> None:
        seconds = time.perf_counter() - start
        self._timer.observe(seconds)
        if seconds > self.slow_seconds:
            _log.warning("slow query", query=f"{self.room}.{self.name}", seconds=round(seconds, 3))


class Queries:
    """The queries of one room, as attributes."""

    def __init__(self, room: str, queries: Mapping[str, Query]) -> None:
        self._room, self._queries = room, queries

    def __getattr__(self, name: str) -> Query:
        try:
            return self._queries[name]
        except KeyError:
            raise AttributeError(f"{self._room}/queries.sql has no query named {name!r}") from None

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries.values())


@cache
def load(package: str) -> Queries:
    """The queries in `queries.sql` of `package` (write `sql.load(__package__)`)."""
    room = package.rpartition(".")[2]
    return parse(room, files(package).joinpath("queries.sql").read_text(encoding="utf-8"))


def parse(room: str, text: str) -> Queries:
    """The queries in the text of a `queries.sql`."""
    parts = _NAME.split(text)[1:]
    queries: dict[str, Query] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"{room}/queries.sql names {name!r} twice")
        queries[name] = Query(room, name, body.strip())
    return Queries(room, queries)
