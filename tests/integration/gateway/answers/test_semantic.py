"""A request that means the same: near enough, equal in everything else, and never in the way."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from answering import HOUR, NEAR, PLANTED, DevHash, find, keep, question, rows
from backstay.gateway.answers import Answers, CachePolicy, Embedder, Question, Surface, near
from backstay.gateway.errors import BudgetExceeded
from backstay.gateway.sim.embedding import embed
from backstay.kernel.clock import ManualClock
from backstay.kernel.db import Database


class TestSemantic:
    async def test_a_request_that_means_the_same_gets_the_answer_and_is_told_how_near_it_is(
        self, answers: Answers, dev_hash: DevHash
    ) -> None:
        await keep(answers, question("how do I reset my password"), policy=NEAR, embedder=dev_hash.embedder)
        near_enough, loose = question("how do I reset my password please"), CachePolicy(ttl=3600, semantic=0.8)
        hit = await find(answers, near_enough, policy=loose, embedder=dev_hash.embedder)
        assert hit is not None
        assert (hit.body, hit.by, hit.found) == (PLANTED, "sim:echo", "semantic")
        wanted = cosine(embed("how do I reset my password", 64), embed("how do I reset my password please", 64))
        assert hit.similarity == pytest.approx(wanted, abs=0.001)
        assert hit.told() == f"hit, found=semantic, age=0, similarity={hit.similarity:.4f}"

    async def test_the_threshold_is_the_edge(self, answers: Answers, dev_hash: DevHash) -> None:
        stands, asked = question("alpha beta gamma delta"), question("alpha beta gamma omega")
        await keep(answers, stands, policy=NEAR, embedder=dev_hash.embedder)
        loose = CachePolicy(ttl=3600, semantic=0.5)
        hit = await find(answers, asked, policy=loose, embedder=dev_hash.embedder)
        assert hit is not None
        at, above = hit.similarity, hit.similarity + 0.000001
        for threshold, found in ((at, True), (above, False), (at - 0.000001, True), (1.0, False)):
            policy = CachePolicy(ttl=3600, semantic=threshold)
            assert (await find(answers, asked, policy=policy, embedder=dev_hash.embedder) is not None) is found

    async def test_equal_vectors_reach_the_threshold_of_one(self, answers: Answers) -> None:
        policy = CachePolicy(ttl=3600, semantic=1.0)
        for dimensions in (1, 3, 64, 1536, 4000):
            dev_hash = DevHash(dimensions)
            asked, same = question(f"Same words {dimensions}"), question(f"same WORDS {dimensions}!")
            await keep(answers, asked, policy=policy, embedder=dev_hash.embedder)
            hit = await find(answers, same, policy=policy, embedder=dev_hash.embedder)
            assert hit is not None, dimensions
            assert hit.similarity == 1.0

    async def test_a_vectors_length_does_not_matter(self, answers: Answers) -> None:
        async def long(text: str) -> list[float]:
            return [1e30 * value for value in embed(text, 16)]

        async def short(text: str) -> list[float]:
            return [1e-30 * value for value in embed(text, 16)]

        await keep(answers, question("Same words"), policy=NEAR, embedder=Embedder("m", long))
        assert await find(answers, question("same words"), policy=NEAR, embedder=Embedder("m", short))

    async def test_the_nearest_of_several_is_taken(self, answers: Answers, dev_hash: DevHash) -> None:
        policy = CachePolicy(ttl=3600, semantic=0.5)
        for words in ("one two three nine", "one two three four", "one two eight nine"):
            exactly = CachePolicy(ttl=3600, semantic=1.0)
            await keep(answers, question(words), words.encode(), policy=exactly, embedder=dev_hash.embedder)
        hit = await find(answers, question("ONE two three four"), policy=policy, embedder=dev_hash.embedder)
        assert hit is not None
        assert hit.body == b"one two three four"

    @pytest.mark.parametrize(
        "other",
        [
            question("reset password", temperature=0.6),
            question("reset password", messages=[{"role": "user", "content": "reset password"}]),
            Question(Surface.CHAT, "cheap", question("reset password").body),
            Question(Surface.MESSAGES, "smart", question("reset password").body),
        ],
        ids=["temperature", "no system prompt", "model", "surface"],
    )
    async def test_everything_else_must_be_equal(self, answers: Answers, dev_hash: DevHash, other: Question) -> None:
        await keep(answers, question("RESET password"), policy=NEAR, embedder=dev_hash.embedder)
        assert await find(answers, question("reset password"), policy=NEAR, embedder=dev_hash.embedder)
        assert await find(answers, other, policy=NEAR, embedder=dev_hash.embedder) is None

    async def test_vectors_of_two_embedders_are_never_compared(self, answers: Answers, dev_hash: DevHash) -> None:
        await keep(answers, question("RESET password"), policy=NEAR, embedder=dev_hash.embedder)
        for other in (DevHash(model="other:model"), DevHash(dimensions=32)):
            assert await find(answers, question("reset password"), policy=NEAR, embedder=other.embedder) is None

    async def test_it_ends_with_its_ttl_and_respects_the_age_asked_for(
        self, answers: Answers, dev_hash: DevHash, manual_clock: ManualClock
    ) -> None:
        short = CachePolicy(ttl=60, semantic=0.9)
        await keep(answers, question("RESET password"), policy=short, embedder=dev_hash.embedder)
        manual_clock.advance(timedelta(seconds=59))
        hit = await find(answers, question("reset password"), policy=short, embedder=dev_hash.embedder)
        assert hit is not None
        assert hit.age == 59
        young = CachePolicy(ttl=60, semantic=0.9, max_age=58)
        assert await find(answers, question("reset password"), policy=young, embedder=dev_hash.embedder) is None
        manual_clock.advance(timedelta(seconds=1))
        assert await find(answers, question("reset password"), policy=NEAR, embedder=dev_hash.embedder) is None

    async def test_the_embedder_is_asked_once_a_request_and_not_at_all_for_an_exact_hit(
        self, answers: Answers, dev_hash: DevHash
    ) -> None:
        await keep(answers, question("words"), policy=NEAR, embedder=dev_hash.embedder)
        assert dev_hash.asked == ["words"]
        await find(answers, question("words"), policy=NEAR, embedder=dev_hash.embedder)
        await find(answers, question("other"), policy=HOUR, embedder=dev_hash.embedder)
        assert dev_hash.asked == ["words"]

    @pytest.mark.parametrize("error", [BudgetExceeded("none left"), TimeoutError(), None])
    async def test_without_a_vector_the_exact_answer_is_kept_and_found(
        self, answers: Answers, dev_hash: DevHash, error: Exception | None, db: Database
    ) -> None:
        dev_hash.error = error
        embedder = dev_hash.embedder if error else Embedder("m", _no_direction)
        assert await keep(answers, question(), policy=NEAR, embedder=embedder)
        assert await find(answers, question(), policy=NEAR, embedder=embedder)
        assert await find(answers, question("other words"), policy=NEAR, embedder=embedder) is None
        assert await rows(db, "select 1 from backstay.cached_answer") == []

    async def test_an_embedder_that_hangs_is_not_waited_for(
        self, answers: Answers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(near, "EMBED_LIMIT", 0.02)

        async def hang(_: str) -> Sequence[float]:
            await asyncio.Event().wait()
            raise AssertionError

        async with asyncio.timeout(10):
            assert await keep(answers, question(), policy=NEAR, embedder=Embedder("m", hang))

    async def test_no_connection_is_held_while_the_embedder_works(
        self, on_postgres: Answers, db: Database, settings: Any
    ) -> None:
        go_on, waiting = asyncio.Event(), 0

        async def slow(text: str) -> Sequence[float]:
            nonlocal waiting
            waiting += 1
            await go_on.wait()
            return embed(text, 8)

        flights = [
            asyncio.create_task(keep(on_postgres, question(f"number {n}"), policy=NEAR, embedder=Embedder("m", slow)))
            for n in range(2 * settings.pool_size)
        ]
        async with asyncio.timeout(30):
            while waiting < len(flights):  # noqa: ASYNC110 -- other tasks bring it about
                await asyncio.sleep(0.005)
        assert await rows(db, "select 1") == [(1,)]
        go_on.set()
        assert all(await asyncio.gather(*flights))


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def _no_direction(_: str) -> Sequence[float]:
    return [0.0] * 8
