"""The same request again: what is found, for how long, and what is never kept."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from answering import ALICE, HOUR, NEAR, PLANTED, DevHash, find, keep, question, rows
from backstay.gateway.answers import OFF, Answers, CachePolicy, Hit
from backstay.gateway.dialogue import Stop
from backstay.kernel.cache import MAX_VALUE
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database


class TestExact:
    async def test_the_same_request_gets_the_answer_byte_for_byte(self, answers: Answers) -> None:
        body = PLANTED + b"\n\0\xff\n"
        assert await keep(answers, question(), body)
        hit = await find(answers, question())
        assert hit == Hit(body, "sim:echo", "exact")

    async def test_a_streamed_one_of_another_user_is_the_same(self, answers: Answers) -> None:
        await keep(answers, question(stream=False, user="a"))
        assert await find(answers, question(user="b", stream=True, stream_options={"include_usage": True}))

    @pytest.mark.parametrize("changes", [{"temperature": 0.6}, {"seed": 1}, {"tools": []}, {"max_tokens": 5}])
    async def test_one_that_asks_something_else_is_another(self, answers: Answers, changes: dict[str, Any]) -> None:
        await keep(answers, question())
        assert await find(answers, question(**changes)) is None

    async def test_an_answer_ends_with_its_ttl(self, answers: Answers, manual_clock: ManualClock) -> None:
        await keep(answers, question(), policy=CachePolicy(ttl=60))
        manual_clock.advance(timedelta(seconds=59))
        hit = await find(answers, question(), policy=CachePolicy(ttl=60))
        assert hit is not None
        assert hit.age == 59
        assert hit.told() == "hit, found=exact, age=59"
        manual_clock.advance(timedelta(seconds=1))
        assert await find(answers, question(), policy=HOUR) is None

    async def test_no_request_gets_an_older_one_than_its_own_ttl_or_max_age_allows(
        self, answers: Answers, manual_clock: ManualClock
    ) -> None:
        await keep(answers, question())
        manual_clock.advance(timedelta(seconds=11))
        assert await find(answers, question(), policy=CachePolicy(ttl=10)) is None
        assert await find(answers, question(), policy=CachePolicy(ttl=3600, max_age=10)) is None
        assert await find(answers, question(), policy=CachePolicy(ttl=11)) is not None

    async def test_the_newest_answer_stands(self, answers: Answers) -> None:
        await keep(answers, question(), b"old")
        async with answers.flight(ALICE, question(), CachePolicy(ttl=60, reads=False)) as flight:
            await flight.keep(b"new", by="sim:echo", stops=[Stop.END])
        hit = await find(answers, question())
        assert hit is not None
        assert hit.body == b"new"


class TestPolicy:
    async def test_switched_off_it_neither_finds_nor_keeps(self, answers: Answers, db: Database) -> None:
        assert not await keep(answers, question(), policy=OFF)
        await keep(answers, question())
        assert await find(answers, question(), policy=OFF) is None
        assert await find(answers, question(), policy=CachePolicy.of({"cache-control": "no-store"}, HOUR)) is None

    async def test_no_cache_finds_nothing_waits_for_nobody_and_keeps_the_answer(
        self, answers: Answers, dev_hash: DevHash
    ) -> None:
        fresh = CachePolicy.of({"cache-control": "no-cache"}, NEAR)
        await keep(answers, question(), b"old", policy=NEAR, embedder=dev_hash.embedder)
        async with answers.flight(ALICE, question(), NEAR, dev_hash.embedder), asyncio.timeout(10):
            assert await keep(answers, question(), b"new", policy=fresh, embedder=dev_hash.embedder)
        for asked in (question(), question("how do I RESET my planted-password")):
            hit = await find(answers, asked, policy=NEAR, embedder=dev_hash.embedder)
            assert hit is not None
            assert hit.body == b"new"

    @pytest.mark.parametrize("name", ["store", "previous_response_id"])
    async def test_a_request_that_changes_something_at_the_provider_is_not_cached(
        self, answers: Answers, name: str
    ) -> None:
        assert not await keep(answers, question(**{name: "x"}))
        assert await find(answers, question(**{name: "x"})) is None

    @pytest.mark.parametrize(
        ("stops", "tools"),
        [([Stop.LENGTH], False), ([Stop.REFUSAL], False), ([Stop.TOOL], False), ([None], False), ([Stop.END], True)],
    )
    async def test_what_does_not_last_is_not_kept(
        self, answers: Answers, dev_hash: DevHash, db: Database, stops: Sequence[Stop | None], tools: bool
    ) -> None:
        options: dict[str, Any] = {"policy": NEAR, "embedder": dev_hash.embedder}
        assert not await keep(answers, question(), stops=stops, tools=tools, **options)
        assert await find(answers, question(), **options) is None
        assert await rows(db, "select 1 from backstay.cached_answer") == []

    async def test_an_answer_too_large_is_not_kept_and_harms_nothing(self, answers: Answers, dev_hash: DevHash) -> None:
        options: dict[str, Any] = {"policy": NEAR, "embedder": dev_hash.embedder}
        assert not await keep(answers, question(), b"x" * MAX_VALUE, **options)
        assert await find(answers, question(), **options) is None
