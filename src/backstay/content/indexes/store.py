"""Rows in, models out; and the statements that build and drop indexes, on a connection of the owner's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg import sql as pgsql

from ...kernel import sql
from ...kernel.db import OWNER, Database, Tx
from ..models import IndexKind
from .advice import EF_CONSTRUCTION, M
from .models import Build, IndexState, Standing

_queries = sql.load(__package__)
_CREATE = {
    IndexKind.HNSW: "using hnsw (e public.halfvec_cosine_ops) with (m = {m}, ef_construction = {ef})",
    IndexKind.IVFFLAT: "using ivfflat (e public.halfvec_cosine_ops) with (lists = {lists})",
    IndexKind.BINARY: "using hnsw ((public.binary_quantize(e)::bit({dimensions})) public.bit_hamming_ops) "
    "with (m = {m}, ef_construction = {ef})",
}
# What the catalogue knows of indexes over vectors: the binary one is over an expression, so it has no column.
_STANDING = """
    select c.relname, case when a.amname = 'hnsw' and i.indkey[0] = 0 then 'binary' else a.amname end, i.indisvalid,
           (select o.option_value::int from pg_options_to_table(c.reloptions) o where o.option_name = 'lists')
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
    where i.indrelid = to_regclass(%s) and a.amname in ('hnsw', 'ivfflat') order by i.indisvalid desc, c.oid"""
_PROGRESS = """
    select phase, blocks_done, blocks_total from pg_stat_progress_create_index
    where relid = to_regclass(%s) and datname = current_database()"""


async def state(tx: Tx, space: int) -> IndexState | None:
    row: dict[str, Any] | None = await _queries.state.maybe(tx, dict, space=space)
    if row is None:
        return None
    kind = IndexKind(row["kind"]) if row["kind"] else None
    return IndexState(**row | {"wish": IndexKind(row["wish"]), "kind": kind})


async def with_vectors(tx: Tx) -> list[int]:
    return [space for (space,) in await _queries.with_vectors.rows(tx)]


async def wish(tx: Tx, space: int, kind: IndexKind) -> None:
    await _queries.wish.run(tx, space=space, kind=kind.value)


async def stands(
    tx: Tx, space: int, kind: IndexKind | None, lists: int | None, at: datetime | None, rows: int, seconds: float
) -> None:
    await _queries.stands.run(
        tx, space=space, kind=kind.value if kind else None, lists=lists, at=at, rows=rows, seconds=seconds
    )


async def report(tx: Tx, space: int, kind: IndexKind, phase: str, done: int, total: int, now: datetime) -> None:
    await _queries.report.run(tx, space=space, kind=kind.value, phase=phase, done=done, total=total, now=now)


async def failed(tx: Tx, space: int, error: str, now: datetime) -> None:
    await _queries.failed.run(tx, space=space, error=error, now=now)


async def finished(tx: Tx, space: int) -> None:
    await _queries.finished.run(tx, space=space)


async def build(tx: Tx, space: int) -> Build | None:
    row: dict[str, Any] | None = await _queries.build.maybe(tx, dict, space=space)
    return Build(**row | {"kind": IndexKind(row["kind"])}) if row else None


class Builder:
    """Builds and drops the indexes of one space's vectors without stopping writers. There is one at a time."""

    def __init__(self, connection: AsyncConnection[Any], space: int) -> None:
        self._connection, self._table = connection, f"vec_{int(space)}"

    async def standing(self) -> list[Standing]:
        """Every index over the vectors, those that are valid first."""
        cursor = await self._connection.execute(_STANDING, [f"backstay.{self._table}"])
        return [Standing(name, IndexKind(kind), valid, lists) for name, kind, valid, lists in await cursor.fetchall()]

    async def drop(self, name: str) -> None:
        statement = pgsql.SQL("drop index concurrently if exists backstay.{}").format(pgsql.Identifier(name))
        await self._connection.execute(statement)

    async def create(self, kind: IndexKind, *, dimensions: int, lists: int, memory_mb: int) -> str:
        """Builds an index under a name that is free, and returns it. One that breaks off stays behind, invalid."""
        taken = {index.name for index in await self.standing()}
        names = (f"{self._table}_{kind}{suffix}" for suffix in ("", "_b", "_c", "_d"))
        name = next(name for name in names if name not in taken)
        await self._connection.execute(
            pgsql.SQL("set maintenance_work_mem = {}").format(pgsql.Literal(f"{memory_mb}MB"))
        )
        how = _CREATE[kind].format(m=M, ef=EF_CONSTRUCTION, lists=int(lists), dimensions=int(dimensions))
        statement = pgsql.SQL("create index concurrently {} on backstay.{} " + how)  # of numbers
        await self._connection.execute(statement.format(pgsql.Identifier(name), pgsql.Identifier(self._table)))
        return name


@asynccontextmanager
async def builder(db: Database, space: int) -> AsyncIterator[Builder | None]:
    """The builder of a space's indexes; None while another process has it, or a server process works on for one that
    died."""
    async with await AsyncConnection.connect(db.url_for(OWNER), autocommit=True) as connection:
        await connection.execute("set statement_timeout = 0")
        cursor = await connection.execute(
            "select pg_try_advisory_lock(hashtextextended(%s, 0))", [f"vec_{int(space)}_index"]
        )
        mine = (await cursor.fetchone() or (False,))[0]
        yield Builder(connection, space) if mine else None


@asynccontextmanager
async def watcher(db: Database) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection that may see how far a build is: only the login that builds may, whatever its role."""
    async with await AsyncConnection.connect(db.url, autocommit=True) as connection:
        await connection.execute("set role none")
        yield connection


async def progress(watcher: AsyncConnection[Any], space: int) -> tuple[str, int, int] | None:
    """Phase, blocks done and blocks in all of the build that is under way; None when there is none."""
    cursor = await watcher.execute(_PROGRESS, [f"backstay.vec_{int(space)}"])
    row = await cursor.fetchone()
    return (row[0], row[1] or 0, row[2] or 0) if row and row[0] else None
