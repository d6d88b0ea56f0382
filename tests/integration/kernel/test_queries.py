"""Every named query of every room is PREPAREd against the migrated schema: names, columns and types must fit."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as pgsql

from backstay.kernel import sql, telemetry
from backstay.kernel.db import Database

ROOT = Path(str(files("backstay")))
PARAMETER = re.compile(r"%\((\w+)\)s")
FILES = sorted(ROOT.rglob("queries.sql"))
QUERIES = [query for path in FILES for query in sql.parse(path.parent.name, path.read_text(encoding="utf-8"))]
each_query = pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.room}.{query.name}")


def numbered(text: str) -> str:
    """The query with `$1` for each parameter, as Postgres itself writes them."""
    names = list(dict.fromkeys(PARAMETER.findall(text)))
    return PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", text).replace("%%", "%").rstrip().rstrip(";")


def prepare(session: psycopg.Connection[tuple[object, ...]], text: str) -> None:
    # binary: the protocol then takes one statement only, as a prepared statement does
    session.execute(pgsql.SQL(f"prepare claimed as {numbered(text)}"), binary=True)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def session(shared_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    # The types of vectors live in public; our own tables must be found by their schema's name, on no search path.
    with psycopg.connect(shared_url, autocommit=True, options="-c search_path=public") as connection:
        yield connection


def test_every_room_with_queries_is_found() -> None:
    assert {"kernel", "auth", "audit", "events"} <= {path.parent.name for path in FILES}


def test_no_two_rooms_share_a_name() -> None:
    # the name is the label of the query's metric
    assert len({path.parent.name for path in FILES}) == len(FILES)


@each_query
def test_a_query_fits_the_schema(session: psycopg.Connection[tuple[object, ...]], query: sql.Query) -> None:
    prepare(session, query.text)
    session.execute("deallocate claimed")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("select nonsense from backstay.tenant where id = %(id)s", psycopg.errors.UndefinedColumn),
        ("select id from tenant where id = %(id)s", psycopg.errors.UndefinedTable),
        ("select %(a)s is null", psycopg.errors.IndeterminateDatatype),
        ("select 1; select 2", psycopg.errors.SyntaxError),
    ],
)
def test_a_query_that_does_not_fit_would_be_found(
    session: psycopg.Connection[tuple[object, ...]], text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        prepare(session, text)


async def test_a_query_that_is_sent_in_a_pipeline_is_read_after_it_and_timed_until_then(db: Database) -> None:
    nap = sql.Query("test", "nap", "select %(x)s::int as x from pg_sleep(0.05)")
    async with db.system_tx() as tx:
        async with tx.connection.pipeline():
            first = await nap.send(tx, dict, x=1)
            second = await nap.send(tx, dict, x=2)
        assert [await first(), await second()] == [[{"x": 1}], [{"x": 2}]]
    seconds = telemetry.registry.get_sample_value("backstay_query_seconds_sum", {"query": "test.nap"})
    assert seconds is not None
    assert seconds >= 0.15  # the second one had to wait for the first
