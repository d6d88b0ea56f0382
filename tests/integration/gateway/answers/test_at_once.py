"""Equal requests at the same time share one call, and nobody suffers from it."""

import asyncio
from collections.abc import Sequence

from answering import ALICE, HOUR, NEAR, DevHash, find, question
from backstay.gateway.answers import Answers, CachePolicy
from backstay.gateway.answers.service import Flight
from backstay.gateway.dialogue import Stop
from backstay.kernel.cache import Cache
from backstay.kernel.clock import ManualClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database

MANY = 100


class Provider:
    """Answers when the test says so, the later calls at once; the first `fails` calls fail."""

    def __init__(self, fails: int = 0, stops: Sequence[Stop | None] = (Stop.END,)) -> None:
        self.calls, self.fails, self.stops = 0, fails, stops
        self.asked, self.go_on, self.later = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.later.set()

    async def through(self, flight: Flight) -> bytes:
        async with flight:
            if (hit := await flight.find()) is not None:
                return hit.body
            self.calls += 1
            number = self.calls
            self.asked.set()
            await self.go_on.wait()
            if number > 1:
                await self.later.wait()
            if number <= self.fails:
                raise ConnectionError("the provider failed")
            body = f"answer {number}".encode()
            await flight.keep(body, by="sim:echo", stops=self.stops)
            return body


class TestAtOnce:
    def _ask(self, answers: Answers, provider: Provider, many: int = MANY) -> "list[asyncio.Task[bytes]]":
        return [asyncio.create_task(provider.through(answers.flight(ALICE, question(), HOUR))) for _ in range(many)]

    async def test_a_hundred_equal_requests_make_one_call(self, answers: Answers) -> None:
        provider = Provider()
        tasks = self._ask(answers, provider)
        await provider.asked.wait()
        provider.go_on.set()
        assert await asyncio.gather(*tasks) == [b"answer 1"] * MANY
        assert await asyncio.gather(*self._ask(answers, provider)) == [b"answer 1"] * MANY
        assert provider.calls == 1

    async def test_a_leader_that_fails_fails_alone(self, answers: Answers) -> None:
        provider = Provider(fails=1)
        tasks = self._ask(answers, provider)
        await provider.asked.wait()
        provider.go_on.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if isinstance(end, ConnectionError)] == [ends[0]]
        assert ends[1:] == [b"answer 2"] * (MANY - 1)
        assert provider.calls == 2

    async def test_a_leader_whose_client_leaves_takes_nobody_along(self, answers: Answers) -> None:
        provider = Provider()
        tasks = self._ask(answers, provider)
        await provider.asked.wait()
        tasks[0].cancel()
        provider.go_on.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ends[0], asyncio.CancelledError)
        assert ends[1:] == [b"answer 2"] * (MANY - 1)

    async def test_answers_that_do_not_last_are_not_shared_and_nobody_waits_in_line(self, answers: Answers) -> None:
        provider = Provider(stops=[Stop.LENGTH])
        provider.later.clear()
        tasks = self._ask(answers, provider, 20)
        await provider.asked.wait()
        provider.go_on.set()
        async with asyncio.timeout(30):
            while provider.calls < 20:  # noqa: ASYNC110 -- other tasks bring it about
                await asyncio.sleep(0.005)
        provider.later.set()
        assert sorted(await asyncio.gather(*tasks)) == sorted(f"answer {n}".encode() for n in range(1, 21))
        assert await find(answers, question()) is None

    async def test_a_hundred_at_once_make_one_embedding(self, answers: Answers, dev_hash: DevHash) -> None:
        provider = Provider()
        provider.go_on.set()
        await asyncio.gather(
            *(provider.through(answers.flight(ALICE, question(), NEAR, dev_hash.embedder)) for _ in range(MANY))
        )
        assert (provider.calls, len(dev_hash.asked)) == (1, 1)

    async def test_who_waits_takes_nothing_that_its_own_policy_would_not_take(
        self, answers: Answers, dev_hash: DevHash
    ) -> None:
        policies = [CachePolicy(ttl=60), CachePolicy(ttl=3600), NEAR, CachePolicy(ttl=3600, max_age=1)]
        provider = Provider()
        tasks = [
            asyncio.create_task(provider.through(answers.flight(ALICE, question(), policy, dev_hash.embedder)))
            for policy in policies
        ]
        async with asyncio.timeout(30):
            while provider.calls < len(policies):  # noqa: ASYNC110 -- other tasks bring it about
                await asyncio.sleep(0.005)
        provider.go_on.set()
        assert len(set(await asyncio.gather(*tasks))) == len(policies)

    async def test_a_follower_asks_by_itself_when_its_patience_ends(
        self, db: Database, manual_clock: ManualClock, vault: Vault, postgres_cache: Cache
    ) -> None:
        answers = Answers(db, manual_clock, vault, postgres_cache, patience=0.01)
        provider = Provider()
        tasks = self._ask(answers, provider, 2)
        async with asyncio.timeout(30):
            while provider.calls < 2:  # noqa: ASYNC110 -- a timeout brings it about
                await asyncio.sleep(0.005)
        provider.go_on.set()
        assert sorted(await asyncio.gather(*tasks)) == [b"answer 1", b"answer 2"]
