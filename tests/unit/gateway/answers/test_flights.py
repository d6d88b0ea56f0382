"""Of many who ask the same at once, one asks the provider; its failure is nobody else's."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.answers.flights import Flights

MANY = 100


class Provider:
    """Answers when the test says so. `fails`: how many calls fail first."""

    def __init__(self, fails: int = 0) -> None:
        self.calls, self.fails = 0, fails
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def ask(self) -> str:
        self.calls += 1
        number = self.calls
        self.asked.set()
        await self.go_on.wait()
        if number <= self.fails:
            raise ConnectionError("the provider failed")
        return f"answer {number}"


async def call(flights: Flights[str], provider: Provider, key: str = "k", patience: float = 60) -> str:
    """One request, as the pipeline makes it."""
    seat = flights.seat(key)
    try:
        if (shared := await seat.board(patience)) is not None:
            return shared
        answer = await provider.ask()
        seat.land(answer)
        return answer
    finally:
        seat.leave()


async def settled(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 -- other tasks of this loop bring it about
            await asyncio.sleep(0)


@pytest.fixture
def flights() -> Flights[str]:
    return Flights()


async def test_a_hundred_at_once_make_one_call(flights: Flights[str]) -> None:
    provider = Provider()
    tasks = [asyncio.create_task(call(flights, provider)) for _ in range(MANY)]
    await provider.asked.wait()
    provider.go_on.set()
    assert await asyncio.gather(*tasks) == ["answer 1"] * MANY
    assert provider.calls == 1
    assert len(flights) == 0


async def test_other_keys_make_their_own(flights: Flights[str]) -> None:
    provider = Provider()
    provider.go_on.set()
    answers = await asyncio.gather(*(call(flights, provider, key) for key in "abc"))
    assert sorted(answers) == ["answer 1", "answer 2", "answer 3"]


async def test_one_after_the_other_make_a_call_each(flights: Flights[str]) -> None:
    provider = Provider()
    provider.go_on.set()
    assert [await call(flights, provider) for _ in range(2)] == ["answer 1", "answer 2"]


async def test_when_the_leader_fails_one_of_the_others_leads_and_only_the_leader_fails(flights: Flights[str]) -> None:
    provider = Provider(fails=1)
    tasks = [asyncio.create_task(call(flights, provider)) for _ in range(MANY)]
    await provider.asked.wait()
    provider.go_on.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ends[0], ConnectionError)
    assert ends[1:] == ["answer 2"] * (MANY - 1)
    assert provider.calls == 2
    assert len(flights) == 0


async def test_when_the_leaders_client_leaves_one_of_the_others_leads(flights: Flights[str]) -> None:
    provider = Provider()
    tasks = [asyncio.create_task(call(flights, provider)) for _ in range(MANY)]
    await provider.asked.wait()
    tasks[0].cancel()
    await settled(lambda: provider.calls == 2)
    provider.go_on.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1:] == ["answer 2"] * (MANY - 1)


async def test_a_follower_who_leaves_disturbs_nobody(flights: Flights[str]) -> None:
    provider = Provider()
    tasks = [asyncio.create_task(call(flights, provider)) for _ in range(MANY)]
    await provider.asked.wait()
    for task in tasks[1::2]:
        task.cancel()
    await settled(lambda: all(task.done() for task in tasks[1::2]))
    provider.go_on.set()
    assert await asyncio.gather(*tasks[::2]) == ["answer 1"] * (MANY // 2)
    assert provider.calls == 1


async def test_everybody_leaves_and_the_next_one_finds_nothing_in_its_way(flights: Flights[str]) -> None:
    provider = Provider()
    tasks = [asyncio.create_task(call(flights, provider)) for _ in range(MANY)]
    await provider.asked.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(flights) == 0
    provider.go_on.set()
    calls = provider.calls
    assert await call(flights, provider) == f"answer {calls + 1}"


async def test_after_three_failed_leaders_the_rest_go_on_their_own_together(flights: Flights[str]) -> None:
    failing, working = Provider(fails=MANY), Provider()

    async def one(number: int) -> str:
        return await call(flights, failing if number < 3 else working)

    tasks = [asyncio.create_task(one(number)) for number in range(MANY)]
    await failing.asked.wait()
    failing.go_on.set()
    await settled(lambda: working.calls == MANY - 3)  # nobody waits for anybody any more
    working.go_on.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, ConnectionError) for end in ends[:3])
    assert len(set(ends[3:])) == MANY - 3
    assert len(flights) == 0


async def test_a_lead_that_comes_as_its_follower_leaves_goes_to_the_next(flights: Flights[str]) -> None:
    leader, first, second = (flights.seat("k") for _ in range(3))
    await leader.board(1)
    leaving = asyncio.create_task(first.board(60))
    staying = asyncio.create_task(second.board(60))
    await asyncio.sleep(0)
    leader.leave()
    leaving.cancel()  # the lead is on its way to it
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await staying is None
    assert second.leads
    second.leave()
    assert len(flights) == 0


async def test_who_waits_longer_than_its_patience_asks_by_itself(flights: Flights[str]) -> None:
    provider = Provider()
    leader = asyncio.create_task(call(flights, provider))
    await provider.asked.wait()
    impatient = [asyncio.create_task(call(flights, provider, patience=0.01)) for _ in range(3)]
    await settled_in_time(lambda: provider.calls == 4)
    provider.go_on.set()
    assert await leader == "answer 1"
    assert sorted(await asyncio.gather(*impatient)) == ["answer 2", "answer 3", "answer 4"]
    assert len(flights) == 0


async def test_an_answer_of_the_leaders_own_sends_the_others_on_their_way_together(flights: Flights[str]) -> None:
    seat, boarded = flights.seat("k"), flights.seat("k")
    assert await seat.board(1) is None
    waiting = asyncio.create_task(boarded.board(60))
    await asyncio.sleep(0)
    seat.divert()
    assert await waiting is None
    assert not boarded.leads
    assert len(flights) == 0


async def test_an_answer_is_there_for_those_who_come_while_it_is_being_kept(flights: Flights[str]) -> None:
    seat = flights.seat("k")
    await seat.board(1)
    seat.land("answer")
    assert await flights.seat("k").board(1) == "answer"
    seat.leave()
    late = flights.seat("k")
    assert await late.board(1) is None
    assert late.leads


ACTS = st.sampled_from(["answers", "fails", "leaves", "keeps to itself"])


@given(st.lists(st.tuples(ACTS, st.integers(0, 3)), max_size=12))
def test_whatever_each_one_does_all_come_to_an_end_and_nothing_is_left(plan: list[tuple[str, int]]) -> None:
    async def one(flights: Flights[str], act: str, pauses: int) -> str:
        seat = flights.seat("k")
        try:
            if (shared := await seat.board(60)) is not None:
                return shared
            for _ in range(pauses):
                await asyncio.sleep(0)
            if act == "fails":
                raise ConnectionError
            seat.divert() if act == "keeps to itself" else seat.land("answer")
            return "answer"
        finally:
            seat.leave()

    async def run() -> None:
        flights: Flights[str] = Flights()
        tasks = [asyncio.create_task(one(flights, act, pauses)) for act, pauses in plan]
        for (act, pauses), task in zip(plan, tasks, strict=True):
            for _ in range(pauses):
                await asyncio.sleep(0)
            if act == "leaves":
                task.cancel()
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for (act, _), end in zip(plan, ends, strict=True):
            may = {"fails": ConnectionError, "leaves": asyncio.CancelledError}
            assert end == "answer" or isinstance(end, may[act])
        assert len(flights) == 0

    asyncio.run(run())


async def settled_in_time(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 -- a timeout brings it about
            await asyncio.sleep(0.005)
