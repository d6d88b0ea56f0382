"""The LRU in front of the cache: bounded, honest about time, and of one tenant at a time."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from backstay.kernel.cache import _OVERHEAD, Lru

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=60)
ALICE, BOB = uuid4(), uuid4()


def place(key: str, tenant: UUID = ALICE) -> tuple[UUID, str]:
    return tenant, key


def holding(count: int) -> Lru:
    """Room for `count` entries of a one-letter key and ten bytes, which are no more than an eighth each."""
    return Lru(count * (_OVERHEAD + 11))


def test_lets_go_of_what_was_not_used_for_longest() -> None:
    lru = holding(8)
    for key in "abcdefgh":
        lru.put(place(key), b"x" * 10, LATER)
    lru.get(place("a"), NOW)
    lru.put(place("i"), b"x" * 10, LATER)
    assert lru.get(place("b"), NOW) is None
    assert [lru.get(place(key), NOW) for key in "acdefghi"] == [b"x" * 10] * 8


def test_a_value_ends_on_time_and_gives_its_room_back() -> None:
    lru = holding(8)
    lru.put(place("a"), b"x" * 10, LATER)
    assert lru.get(place("a"), LATER - timedelta(microseconds=1)) == b"x" * 10
    assert lru.get(place("a"), LATER) is None
    assert (len(lru), lru.taken) == (0, 0)


def test_a_large_value_does_not_push_out_all_others() -> None:
    lru = holding(8)
    lru.put(place("a"), b"x" * 10, LATER)
    lru.put(place("b"), b"x" * 11, LATER)
    assert lru.get(place("a"), NOW) is not None
    assert lru.get(place("b"), NOW) is None


def test_a_large_value_in_the_place_of_a_small_one_leaves_neither() -> None:
    lru = holding(8)
    lru.put(place("a"), b"old", LATER)
    lru.put(place("a"), b"x" * 5000, LATER)
    assert lru.get(place("a"), NOW) is None


def test_without_room_it_holds_nothing() -> None:
    lru = Lru(0)
    lru.put(place("a"), b"", LATER)
    assert (len(lru), lru.taken) == (0, 0)


def test_the_same_key_of_two_tenants_is_two_places() -> None:
    lru = holding(8)
    lru.put(place("a", ALICE), b"hers", LATER)
    assert lru.get(place("a", BOB), NOW) is None
    lru.put(place("a", BOB), b"his", LATER)
    lru.drop(place("a", BOB))
    assert lru.get(place("a", ALICE), NOW) == b"hers"


@given(
    st.lists(
        st.tuples(st.sampled_from("pgd"), st.sampled_from("abcdefghijkl"), st.binary(max_size=600), st.integers(0, 99))
    )
)
def test_it_never_takes_more_than_its_bound_and_never_answers_anything_else(
    steps: list[tuple[str, str, bytes, int]],
) -> None:
    lru, stands = Lru(6000), dict[str, tuple[bytes, datetime]]()
    for step, (act, key, value, seconds) in enumerate(steps):
        now = NOW + timedelta(seconds=step)
        if act == "p":
            stands[key] = value, now + timedelta(seconds=seconds)
            lru.put(place(key), *stands[key])
        elif act == "d":
            stands.pop(key, None)
            lru.drop(place(key))
        elif (found := lru.get(place(key), now)) is not None:
            assert found == stands[key][0]
            assert now < stands[key][1]
        assert lru.taken <= 6000
    assert lru.taken == sum(len(value) + len(key) + _OVERHEAD for (_, key), (value, _) in lru._entries.items())
