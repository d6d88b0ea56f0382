from uuid import UUID

from backstay.content.postings.lengths import Lengths

MINE, THEIRS = UUID(int=1), UUID(int=2)


def test_the_segments_used_last_are_kept_within_a_bound() -> None:
    lengths = Lengths(most=10)
    lengths.keep(MINE, {1: b"1234", 2: b"1234"})
    assert lengths.of(MINE, [1, 2, 3]) == {1: b"1234", 2: b"1234"}
    lengths.of(MINE, [1])
    lengths.keep(MINE, {3: b"1234"})
    assert set(lengths.of(MINE, [1, 2, 3])) == {1, 3}


def test_a_segment_kept_again_counts_once() -> None:
    lengths = Lengths(most=10)
    for _ in range(10):
        lengths.keep(MINE, {1: b"1234"})
    lengths.keep(MINE, {2: b"1234"})
    assert set(lengths.of(MINE, [1, 2])) == {1, 2}


def test_one_tenants_are_nothing_to_another() -> None:
    lengths = Lengths()
    lengths.keep(MINE, {1: b"12"})
    assert lengths.of(THEIRS, [1]) == {}
