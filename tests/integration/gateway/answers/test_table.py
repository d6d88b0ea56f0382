"""The table of answers by meaning: bounded, swept, compared within one digest, and dispensable."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from answering import ALICE, BOB, NEAR, DevHash, find, keep, question, rows
from backstay.gateway.answers import Answers, CachePolicy, near
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database


class TestTheTable:
    async def test_at_most_the_newest_thousand_of_a_digest_are_kept(
        self, on_postgres: Answers, dev_hash: DevHash, manual_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert near.MOST_COMPARED == 1000
        monkeypatch.setattr(near, "MOST_COMPARED", 3)
        exactly = CachePolicy(ttl=3600, semantic=1.0)
        words = ["one", "two", "six", "ten", "red"]
        for word in words:
            await keep(on_postgres, question(word), word.encode(), policy=exactly, embedder=dev_hash.embedder)
            manual_clock.advance(timedelta(seconds=1))
        found = [
            await find(on_postgres, question(word.upper()), policy=exactly, embedder=dev_hash.embedder)
            for word in words
        ]
        assert [hit.body if hit else None for hit in found] == [None, None, b"six", b"ten", b"red"]

    async def test_what_has_ended_is_swept_and_nothing_else(
        self, on_postgres: Answers, dev_hash: DevHash, manual_clock: ManualClock, db: Database
    ) -> None:
        for number in range(5):
            short = CachePolicy(ttl=10, semantic=1.0)
            await keep(on_postgres, question(f"w{number}"), policy=short, embedder=dev_hash.embedder)
        await keep(on_postgres, question("long"), policy=NEAR, embedder=dev_hash.embedder)
        manual_clock.advance(timedelta(seconds=10))
        assert [await on_postgres.sweep(limit=3) for _ in range(3)] == [3, 2, 0]
        assert len(await rows(db, "select 1 from backstay.cached_answer")) == 1

    async def test_the_loop_sweeps_and_ends_when_it_is_told(
        self, on_postgres: Answers, dev_hash: DevHash, manual_clock: ManualClock, db: Database
    ) -> None:
        await keep(on_postgres, question(), policy=NEAR, embedder=dev_hash.embedder)
        manual_clock.advance(timedelta(hours=1))
        ending = asyncio.Event()
        loop = asyncio.create_task(on_postgres.tend(ending))
        async with asyncio.timeout(30):
            while await rows(db, "select 1 from backstay.cached_answer"):  # noqa: ASYNC110 -- the loop removes it
                await asyncio.sleep(0.01)
            ending.set()
            await loop

    async def test_while_the_table_cannot_be_used_the_exact_answer_is_kept_and_found(
        self, answers: Answers, dev_hash: DevHash, database_url: str
    ) -> None:
        options: dict[str, Any] = {"policy": NEAR, "embedder": dev_hash.embedder}
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            await admin.execute("alter table backstay.cached_answer rename to elsewhere")
            assert await keep(answers, question(), **options)
            assert await find(answers, question(), **options)
            await admin.execute("alter table backstay.elsewhere rename to cached_answer")

    async def test_a_comparison_reads_the_rows_of_one_tenant_and_digest(self, db: Database, database_url: str) -> None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            await admin.execute(
                "insert into backstay.cached_answer select t, decode(md5(r::text), 'hex'), decode(md5(k::text), 'hex'),"
                " '[1,0]', '', now(), now() + interval '1 hour'"
                " from unnest(%s::uuid[]) t, generate_series(1, 50) r, generate_series(1, 20) k",
                [[ALICE, BOB]],
            )
            await admin.execute("analyze backstay.cached_answer")
        async with db.tenant_tx(ALICE) as tx:
            plan = await (
                await tx.execute(
                    "explain (analyze, format json) " + near.store._queries.nearest.text,
                    {
                        "tenant_id": ALICE,
                        "rest": bytes.fromhex("c4ca4238a0b923820dcc509a6f75849b"),
                        "e": "[1,0]",
                        "threshold": 0.9,
                        "since": "2020-01-01",
                        "now": "2020-01-01",
                    },
                )
            ).fetchone()
        assert plan is not None
        (scan,) = [node for node in _nodes(plan[0][0]["Plan"]) if node.get("Index Name") == "cached_answer_pkey"]
        assert scan["Actual Rows"] == 20


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
