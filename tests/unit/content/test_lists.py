"""Posting lists against the weights that they are made of, without a database."""

import struct
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.content.bm25 import K1, B
from backstay.content.postings.lists import Board, write
from backstay.content.postings.models import Lists, Places, Posting, Written

PIVOT = 7.0
bags = st.lists(
    st.dictionaries(st.integers(1, 12), st.one_of(st.integers(1, 4), st.integers(1, 400)), max_size=8), min_size=1
)


def weight(tf: int, length: int, pivot: float) -> float:
    return tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / pivot))


def sent(bag: dict[int, int], pivot: float) -> bytes:
    """A sparsevec of the bag's weights as Postgres sends it: terms are counted from 0."""
    terms, length = sorted(bag), sum(bag.values())
    weights = [float(f"{weight(bag[term], length, pivot):.6g}") for term in terms]
    count = len(terms)
    return struct.pack(f">iii{count}i{count}f", 10**9, count, 0, *(term - 1 for term in terms), *weights)


def read(written: Written) -> Lists:
    """As the store cuts them."""
    lengths, terms, at, counted = b"", {}, 0, 0
    for term, size, count in zip(written.terms, written.place_sizes, written.count_sizes, strict=True):
        places, counts = written.places[at : at + size] or None, written.counts[counted : counted + count]
        at, counted = at + size, counted + count
        if term == 0:
            lengths = counts
        else:
            terms[term] = Posting(places, counts)
    return Lists(1, lengths, terms)


def lists(bags: list[dict[int, int]], pivot: float = PIVOT) -> Lists:
    lengths = [sum(bag.values()) for bag in bags]
    return read(write(lengths, [pivot] * len(bags), [sent(bag, pivot) for bag in bags]))


@given(bags, st.dictionaries(st.integers(1, 12), st.floats(0.1, 10), min_size=1), st.sampled_from([PIVOT, 9.5]))
def test_scores_are_those_of_the_weights_also_with_a_new_pivot(
    bags: list[dict[int, int]], query: dict[int, float], pivot: float
) -> None:
    whole = lists(bags)
    asked = {term: query[term] for term in query if term in whole.terms}
    board = Board([Lists(1, whole.lengths, {term: whole.terms[term] for term in asked})], asked, pivot)
    for place, bag in enumerate(bags):
        expected = sum(query[term] * weight(tf, sum(bag.values()), pivot) for term, tf in bag.items() if term in query)
        got = float(board._scores[place])
        if max(bag.values(), default=0) < 200:
            assert got == pytest.approx(expected, rel=2e-5)
        else:  # more often than a byte can say: never too low, so that the chunk is looked at
            assert got >= expected * (1 - 2e-5)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5, 3.0]), min_size=1, max_size=500), st.integers(1, 40))
def test_a_board_hands_out_the_best_first_and_each_once(scores: list[float], count: int) -> None:
    board = Board([Lists(1, bytes(2 * len(scores)))], {}, PIVOT)
    board._scores = np.array(scores, np.float32)
    handed: list[float] = []
    seen: Counter[int] = Counter()
    while board.best() > 0:
        places: Places = board.take(count)
        assert 1 <= len(places.places) <= count
        seen.update(places.places)
        handed += [scores[place] for place in places.places]
    assert handed == sorted((score for score in scores if score > 0), reverse=True)
    assert set(seen.values()) <= {1}


def test_common_terms_take_a_byte_for_each_chunk_and_rare_ones_three_for_theirs() -> None:
    whole = lists([{1: 1, 2: 1} if n % 10 == 0 else {1: 2} for n in range(100)])
    assert whole.terms[1].places is None
    assert len(whole.terms[1].counts) == 100
    assert (len(whole.terms[2].places or b""), len(whole.terms[2].counts)) == (20, 10)


def test_chunks_without_a_word_have_a_place() -> None:
    whole = lists([{}, {3: 1}, {}])
    assert len(whole.lengths) == 6
    board = Board([whole], {3: 1.0}, PIVOT)
    assert board.take(5).places == [1]
