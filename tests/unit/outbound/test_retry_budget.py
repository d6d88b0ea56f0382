import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.kernel.errors import ConfigurationError
from backstay.outbound import RetryBudget, RetryPolicy
from stopwatch import Stopwatch


def taken(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.take() for _ in range(wanted))


def test_with_little_traffic_ten_retries_are_allowed_in_ten_seconds():
    clock = Stopwatch()
    budget = RetryBudget(clock=clock)
    assert taken(budget, 50) == 10
    clock.advance(8)
    assert taken(budget, 50) == 0
    clock.advance(2)
    assert taken(budget, 50) == 10


def test_an_outage_adds_a_tenth_to_the_load_and_not_twice_the_load():
    budget = RetryBudget(clock=Stopwatch())
    retries = 0
    for _ in range(10_000):
        budget.note_call()
        retries += taken(budget, 2)  # what two retries a call would ask for
    assert retries == 1_010


def test_old_calls_do_not_pay_for_new_retries():
    clock = Stopwatch()
    budget = RetryBudget(clock=clock)
    for _ in range(1_000):
        budget.note_call()
    clock.advance(10)
    assert taken(budget, 200) == 10


def test_a_refused_retry_takes_nothing():
    budget = RetryBudget(RetryPolicy(percent=10, floor=0), Stopwatch())
    assert taken(budget, 100) == 0
    for _ in range(10):
        budget.note_call()
    assert taken(budget, 100) == 1


@pytest.mark.parametrize(
    ("policy", "retries"), [(RetryPolicy(0, 0), 0), (RetryPolicy(100, 0), 20), (RetryPolicy(50, 3), 13)]
)
def test_the_policy_decides(policy: RetryPolicy, retries: int):
    budget = RetryBudget(policy, Stopwatch())
    for _ in range(20):
        budget.note_call()
    assert taken(budget, 100) == retries


@pytest.mark.parametrize("wrong", [{"percent": -1}, {"percent": 1001}, {"floor": -1}, {"window": 0.0}])
def test_a_policy_that_makes_no_sense_is_refused_by_name(wrong: dict[str, float]):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.sampled_from(["call", "retry", "wait"]), st.integers(1, 30)), max_size=60),
    st.integers(0, 100),
    st.integers(0, 5),
)
def test_it_counts_as_a_list_of_all_calls_would(steps: list[tuple[str, int]], percent: int, floor: int):
    clock = Stopwatch(0)
    budget = RetryBudget(RetryPolicy(percent, floor, window=10), clock)
    calls: list[int] = []
    retries: list[int] = []

    def recent(times: list[int]) -> int:
        return sum(int(clock.now) - at < 10 for at in times)

    for step, count in steps:
        if step == "wait":
            clock.advance(count)
        for _ in range(count):
            if step == "call":
                budget.note_call()
                calls.append(int(clock.now))
            elif step == "retry":
                allowed = recent(retries) + 1 <= floor + percent * recent(calls) // 100
                assert budget.take() == allowed
                retries += [int(clock.now)] * allowed
