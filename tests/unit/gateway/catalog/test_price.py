"""Prices with dates: what holds when, for which models, and what it comes to."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backstay.gateway.catalog import NewPrice, Price, PriceList, Rates
from backstay.gateway.models import Usage

START = datetime(2026, 2, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def price(pattern: str, usd: int, starts_at: datetime = START, ends_at: datetime | None = None) -> Price:
    return Price(UUID(int=usd), pattern, Rates(input=usd, output=usd), starts_at, ends_at, START)


def found(prices: list[Price], model: str, at: datetime) -> Decimal | None:
    one = PriceList(prices).at(model, at)
    return None if one is None else one.rates.input


class TestDates:
    def test_a_price_holds_from_its_start_on_until_before_its_end(self) -> None:
        prices = [price("a:m", 1, START, START + timedelta(days=1))]
        assert found(prices, "a:m", START - TICK) is None
        assert found(prices, "a:m", START) == 1
        assert found(prices, "a:m", START + timedelta(days=1) - TICK) == 1
        assert found(prices, "a:m", START + timedelta(days=1)) is None

    def test_the_newest_that_has_started_holds(self) -> None:
        prices = [
            price("a:m", 1),
            price("a:m", 3, START + timedelta(days=2)),
            price("a:m", 2, START + timedelta(days=1)),
        ]
        days = [found(prices, "a:m", START + timedelta(days=day, hours=1)) for day in range(4)]
        assert days == [1, 2, 3, 3]

    def test_when_a_passing_price_ends_the_one_before_holds_again(self) -> None:
        sale = price("a:m", 9, START + timedelta(days=1), START + timedelta(days=2))
        assert [found([price("a:m", 1), sale], "a:m", START + timedelta(days=day)) for day in range(3)] == [1, 9, 1]


class TestPatterns:
    PRICES = [price("a:*", 1), price("a:gpt-5*", 2), price("a:gpt-5", 3), price("b:m", 4)]

    @pytest.mark.parametrize(
        ("model", "usd"), [("a:x", 1), ("a:gpt-5-mini", 2), ("a:gpt-5", 3), ("b:m", 4), ("b:mm", None), ("c:m", None)]
    )
    def test_the_exact_name_goes_before_the_longest_beginning(self, model: str, usd: int | None) -> None:
        assert found(self.PRICES, model, START) == usd

    def test_a_closer_pattern_that_has_not_started_leaves_it_to_a_wider_one(self) -> None:
        prices = [price("a:*", 1), price("a:m", 2, START + timedelta(days=1))]
        assert [found(prices, "a:m", START + timedelta(days=day)) for day in (0, 1)] == [1, 2]

    @given(
        st.lists(
            st.builds(
                lambda pattern, usd, day, length: price(
                    pattern,
                    usd,
                    START + timedelta(days=day),
                    None if length is None else START + timedelta(days=day + length),
                ),
                st.sampled_from(["a:m", "a:mini", "a:m*", "a:*", "b:*"]),
                st.integers(0, 10**6),
                st.integers(0, 5),
                st.none() | st.integers(1, 3),
            ),
            unique_by=lambda made: (made.pattern, made.starts_at),
        ),
        st.sampled_from(["a:m", "a:mini", "a:x", "b:m"]),
        st.integers(0, 6),
    )
    def test_the_list_finds_what_looking_at_each_would_find(self, prices, model, day) -> None:
        at = START + timedelta(days=day)
        fitting = [one for one in prices if one.names(model) and one.holds(at)]
        closest = max(
            fitting, key=lambda one: (not one.pattern.endswith("*"), len(one.pattern), one.starts_at), default=None
        )
        assert PriceList(prices).at(model, at) == closest


class TestCost:
    def test_each_kind_of_token_has_its_price(self) -> None:
        rates = Rates(input=1, output=10, cached="0.1", written="1.25", written_hour=2, input_audio=40, output_audio=80)
        usage = Usage(
            input_tokens=1_000,
            output_tokens=100,
            cached_tokens=200,
            written_tokens=300,
            written_hour_tokens=100,
            input_audio_tokens=50,
            output_audio_tokens=20,
        )
        exact = Decimal(450 * 1 + 50 * 40 + 80 * 10 + 20 * 80) + 200 * Decimal("0.1") + 200 * Decimal("1.25") + 100 * 2
        assert rates.cost(usage) == exact / 1_000_000

    def test_what_has_no_price_of_its_own_costs_what_it_is_a_kind_of(self) -> None:
        usage = Usage(100, 10, 10, 0, 20, 5, 30, 4)
        assert Rates(input=2, output=3).cost(usage) == Decimal(100 * 2 + 10 * 3) / 1_000_000

    def test_zero_is_a_price(self) -> None:
        assert Rates(input=0, output=0).cost(Usage(10**6, 10**6)) == 0
        assert found([price("a:m", 0)], "a:m", START) == 0

    @given(
        st.builds(
            Rates,
            input=st.integers(0, 50),
            output=st.integers(0, 50),
            cached=st.none() | st.integers(0, 99),
            written=st.none() | st.integers(0, 99),
            written_hour=st.none() | st.integers(0, 99),
            input_audio=st.none() | st.integers(0, 99),
            output_audio=st.none() | st.integers(0, 99),
        ),
        st.lists(st.integers(0, 1000), min_size=7, max_size=7),
    )
    def test_no_usage_costs_more_than_the_bound(self, rates, parts) -> None:
        fresh, cached, written, hour, heard, said, spoken = parts
        usage = Usage(
            input_tokens=fresh + cached + written + hour + heard,
            output_tokens=said + spoken,
            cached_tokens=cached,
            written_tokens=written + hour,
            written_hour_tokens=hour,
            input_audio_tokens=heard,
            output_audio_tokens=spoken,
        )
        assert 0 <= rates.cost(usage) <= rates.bound(usage.input_tokens, usage.output_tokens)


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": -1},
        {"input": "NaN"},
        {"input": "Infinity"},
        {"input": "1e9"},
        {"input": "0.00000000001"},
        {"output": None},
        {"pattern": "gpt-5"},
        {"pattern": "a:"},
        {"pattern": "a:*x"},
        {"pattern": "*"},
        {"pattern": "a:m\x00"},
        {"pattern": "a:m\n"},
        {"pattern": "a:\ud800"},
        {"pattern": "a:" + "x" * 600},
        {"starts_at": "2026-01-01T00:00:00"},
        {"starts_at": "0001-01-01T00:00:00+14:00"},
        {"starts_at": "9999-12-31T23:59:59-14:00"},
        {"starts_at": 10**30},
        {"ends_at": "2026-01-01T00:00:00Z", "starts_at": "2026-01-01T00:00:00Z"},
        {"cashed": 1},
    ],
)
def test_what_is_no_price_is_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        NewPrice(**({"pattern": "a:m", "input": 1, "output": 2} | wrong))
