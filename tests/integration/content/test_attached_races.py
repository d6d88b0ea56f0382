"""Attached tables while others write, while workers die, in whatever order transactions commit."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backstay.content import Content
from backstay.content.attached import Attached, table_store
from backstay.jobs import Jobs
from backstay.kernel.db import Database
from backstay.kernel.principal import Principal
from conftest import MASTER_KEY

from .conftest import PRODUCTS, Connection, Settle, Words, rows, settled, texts, until, vector, working


async def assert_vectors_fit(db: Database, by: Principal) -> None:
    """Every chunk has the vector of its present text, and nothing else has one."""
    ((space,),) = await rows(db, by.tenant, "select space_id from backstay.collection where name = 'products'")
    found = await rows(
        db,
        by.tenant,
        f"select c.text, v.e::text from backstay.vec_{space} v join backstay.chunk c on c.id = v.chunk_id",
    )
    assert await rows(db, by.tenant, f"select count(*) from backstay.vec_{space}") == [(len(found),)]
    assert sorted(text for text, _ in found) == sorted((await texts(db, by.tenant)).values())
    for text, literal in found:
        given = [float(part) for part in str(literal).strip("[]").split(",")]
        assert given == pytest.approx(vector(str(text)), abs=1e-3)


@pytest.mark.parametrize("change", ["update products set title = 'other words'", "delete from products where id = 1"])
async def test_a_row_that_changes_while_it_is_embedded_has_the_vector_of_its_new_text_or_none(
    attached: Attached,
    operator: Principal,
    plain: Connection,
    settle: Settle,
    db: Database,
    words: Words,
    jobs: Jobs,
    change: str,
) -> None:
    plain.execute("insert into products values (1, 'old words', ''), (2, 'more words', '')")
    words.gate.clear()
    await attached.attach(operator, "products", PRODUCTS)
    async with working(jobs):
        await _until_asked(attached, words)
        plain.execute(change)

        async def taken_over() -> bool:
            await attached.tending.spread()
            return (await attached.status(operator, "products")).current

        await until(taken_over)  # the old texts are still with the embedder
        words.gate.set()
    await settled(db, jobs, operator.tenant)
    await assert_vectors_fit(db, operator)


async def test_a_change_that_commits_late_is_not_passed_over(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database, database_url: str
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    with psycopg.connect(database_url) as slow:
        slow.execute("insert into products values (1, 'first', '')")  # notes the change first and commits it last
        plain.execute("insert into products values (2, 'second', '')")
        await settle()
        assert await texts(db, operator.tenant) == {"2": "second"}
        slow.commit()
    await settle()
    assert await texts(db, operator.tenant) == {"1": "first", "2": "second"}


async def test_of_two_writers_of_a_row_the_last_to_commit_is_what_is_found(
    attached: Attached, operator: Principal, plain: Connection, settle: Settle, db: Database, database_url: str
) -> None:
    plain.execute("insert into products values (1, 'zero', '')")
    await attached.attach(operator, "products", PRODUCTS)
    with psycopg.connect(database_url) as first:
        first.execute("update products set title = 'first' where id = 1")
        second = asyncio.create_task(
            asyncio.to_thread(plain.execute, "update products set title = 'second' where id = 1")
        )
        await settle()
        assert await texts(db, operator.tenant) == {"1": "zero"}
        first.commit()
    await second
    await settle()
    assert await texts(db, operator.tenant) == {"1": "second"}


async def test_a_row_that_changes_after_it_was_read_and_before_that_is_committed_is_read_again(
    attached: Attached,
    operator: Principal,
    plain: Connection,
    settle: Settle,
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await attached.attach(operator, "products", PRODUCTS)
    await settle()
    plain.execute("insert into products values (1, 'read', ''), (2, 'deleted', '')")
    read, changed = table_store.rows, False

    async def then_change(*args: Any) -> Any:
        nonlocal changed
        result = await read(*args)
        if result[0] and not changed:
            changed = True
            await asyncio.to_thread(plain.execute, "update products set title = 'changed' where id = 1")
            await asyncio.to_thread(plain.execute, "delete from products where id = 2")
        return result

    monkeypatch.setattr(table_store, "rows", then_change)
    await settle()
    assert changed
    assert await texts(db, operator.tenant) == {"1": "changed"}


@pytest.mark.parametrize(("place", "call"), [("advance", 2), ("take_changes", 3), ("shadows", 2)])
async def test_a_backfill_that_is_killed_goes_on_and_does_nothing_twice(
    attached: Attached,
    content: Content,
    operator: Principal,
    plain: Connection,
    settle: Settle,
    db: Database,
    database_url: str,
    place: str,
    call: int,
) -> None:
    plain.execute("insert into products select n, 'title ' || n, '' from generate_series(1, 500) n")
    await attached.attach(operator, "products", PRODUCTS.model_copy(update={"embedder": None}))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("dying_tender.py")),
        *(database_url, MASTER_KEY, place, str(call)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"here\n"
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    plain.execute("update products set title = 'changed' where id in (1, 250, 500)")
    plain.execute("delete from products where id in (2, 251)")
    status = await settle()
    assert len(await texts(db, operator.tenant)) == 498
    assert status.seen in (498, 499, 500)  # each row once, whenever it was deleted
    puts = "select count(*), count(distinct payload ->> 'id') from backstay.outbox where type = 'content.put'"
    ((put, documents),) = await rows(db, operator.tenant, puts)
    assert int(str(put)) <= int(str(documents)) + 3  # what was changed is written again, and nothing else
    ((chunks, length),) = await rows(
        db,
        operator.tenant,
        "select c.chunks + coalesce(sum(d.chunks), 0), c.length + coalesce(sum(d.length), 0) "
        "from backstay.collection c left join backstay.bm_delta d on d.collection = c.name "
        "where c.name = 'products' group by c.chunks, c.length",
    )
    assert (chunks, length) == (498, 2 * 495 + 3)


async def _until_asked(attached: Attached, words: Words) -> None:
    async def asked() -> bool:
        await attached.tending.spread()
        return words.asked.is_set()

    await until(asked)
