import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.content.bm25 import K1, B, Bag, literal, numbers, query_weights, wanted
from backstay.content.ranking import fuse
from backstay.content.tokens import DIMENSIONS, number, query_terms, terms


class TestTerms:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Running runs RUN", ["run", "run", "run"]),
            ("user_id and HTTP/2", ["user", "id", "and", "http", "2"]),
            ("Café naïve Straße", ["cafe", "naiv", "strass"]),
            ("ﬁne ①", ["fine", "1"]),
            ("Ελλάδα", ["ελλαδα"]),
            ("東京都", ["東京", "京都"]),
            ("木", ["木"]),
            ("x86 v1.2", ["x86", "v1", "2"]),
            ("don’t", ["don't"]),
            ("…!", []),
            ("A" * 101, []),
        ],
    )
    def test_are_what_people_look_for(self, text: str, expected: list[str]) -> None:
        assert terms(text) == expected

    def test_stop_words_are_left_out_of_queries_only(self) -> None:
        assert query_terms("what is the lift of a wing") == ["lift", "wing"]
        assert query_terms("to be or not to be") == terms("to be or not to be")
        assert "the" in terms("the wing")

    def test_have_the_same_number_for_ever(self) -> None:
        # They are stored: another number would lose every document written before.
        assert [number(term) for term in ("wing", "東京")] == [853_991_940, 215_949_809]

    @given(st.text())
    def test_never_fail_and_stay_in_range(self, text: str) -> None:
        assert all(1 <= number(term) <= DIMENSIONS for term in terms(text.encode("utf-8", "replace").decode()))

    def test_are_the_same_from_many_threads(self) -> None:
        text = " ".join(f"running{n} nationally{n}x happiness ponies" for n in range(200))
        words = " ".join(
            f"{stem}{ending}" for stem in ("abc", "bcd", "cde") for ending in ("ing", "ed", "ational", "ies")
        )
        expected = terms(text + words)
        with ThreadPoolExecutor(8) as pool:
            assert all(found == expected for found in pool.map(terms, [text + words] * 32))


class TestWeights:
    def test_saturate_and_are_normalised_by_length(self) -> None:
        bag = Bag.of("wing wing lift")
        tf, norm = 2, K1 * (1 - B + B * 3 / 6)
        parsed = dict(pair.split(":") for pair in bag.weights(6.0)[1:].split("}")[0].split(","))
        assert float(parsed[str(number("wing"))]) == pytest.approx(tf * (K1 + 1) / (tf + norm), rel=1e-5)
        assert bag.length == 3

    def test_of_a_query_are_inverse_frequencies(self) -> None:
        weights = query_weights(wanted("wing wing lift drag"), {number("wing"): 3, number("lift"): 10}, 10)
        assert weights[number("wing")] == pytest.approx(2 * math.log(1 + 7.5 / 3.5))
        assert weights[number("lift")] > 0  # a term in every chunk still counts a little
        assert number("drag") not in weights

    @given(st.dictionaries(st.integers(1, DIMENSIONS), st.floats(0.001, 1000)))
    def test_are_read_back_as_they_were_written(self, weights: dict[int, float]) -> None:
        assert list(numbers(literal(weights))) == sorted(weights)


class TestFusion:
    def test_adds_reciprocal_ranks(self) -> None:
        assert fuse({"a": ["x", "y"], "b": ["y", "z"]}) == [
            ("y", 1 / 62 + 1 / 61),
            ("x", 1 / 61),
            ("z", 1 / 62),
        ]

    def test_what_both_legs_found_stands_before_what_one_found(self) -> None:
        assert fuse({"a": ["x", *"abc", "y"], "b": ["z", *"def", "y"]})[0][0] == "y"
