from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as PricedUsage
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.errors import PriceUnknown
from backstay.gateway.models import Usage
from backstay.gateway.pricing import Listed, PerCall, PerToken, Prices, _listed, _told

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_cached_tokens_are_part_of_the_input_and_cheaper():
    price = Prices().of("openai", "gpt-4o", NOW)
    # 2.50 a million in, 1.25 cached, 10 out
    assert price.cost(Usage(1_000_000, 0)) == Decimal("2.5")
    assert price.cost(Usage(1_000_000, 0, cached_tokens=400_000)) == Decimal("2.0")
    assert price.cost(Usage(0, 1_000_000)) == Decimal(10)


def test_a_dated_name_has_the_price_of_its_model():
    assert Prices().of("openai", "gpt-4o-2024-08-06", NOW) == Prices().of("openai", "gpt-4o", NOW)


def test_costs_are_exact():
    price = Prices().of("openai", "gpt-4o", NOW)
    assert sum(price.cost(Usage(1, 1)) for _ in range(1000)) == Decimal("0.0125")


def test_the_bound_is_never_below_the_cost():
    for model in ("gpt-4o", "gpt-5.4", "text-embedding-3-small", "gpt-5-pro"):
        price = Prices().of("openai", model, NOW)
        for read, cached, written in ((0, 0, 0), (10, 10, 5), (500_000, 0, 9), (500_000, 500_000, 70_000)):
            assert price.cost(Usage(read, written, cached)) <= price.bound(read, written)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-haiku-4-5"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-flash"),
        ("google", "gemini-2.5-flash-image"),
        ("openai", "gpt-audio"),
        ("openai", "gpt-5.4"),
    ],
)
@given(data=st.data())
def test_the_bound_holds_for_every_kind_of_token(provider, model, data):
    def some(most):
        return data.draw(st.integers(0, most))

    read, written = some(400_000), some(60_000)
    cached = some(read)
    stored = some(read - cached)
    sound = some(read - cached - stored)
    used = Usage(
        read,
        written,
        cached,
        written_tokens=stored,
        written_hour_tokens=some(stored),
        input_audio_tokens=sound,
        input_image_tokens=some(read - cached - stored - sound),
        output_audio_tokens=some(written),
    )
    price = Prices().of(provider, model, NOW)
    assert 0 <= price.cost(used) <= price.bound(read, written, media=True, hour=True)


def test_tokens_written_to_a_cache_cost_more_and_for_an_hour_still_more():
    price = Prices().of("anthropic", "claude-haiku-4-5", NOW)
    fresh, short = price.cost(Usage(1_000_000)), price.cost(Usage(1_000_000, written_tokens=1_000_000))
    hour = price.cost(Usage(1_000_000, written_tokens=1_000_000, written_hour_tokens=1_000_000))
    assert (short / fresh, hour / fresh) == (Decimal("1.25"), Decimal(2))


def test_sound_has_its_own_price():
    price = Prices().of("openai", "gpt-audio", NOW)
    assert price.cost(Usage(1000, input_audio_tokens=1000)) > price.cost(Usage(1000))


def test_long_inputs_of_tiered_models_cost_more_a_token():
    price = Prices().of("openai", "gpt-5.4", NOW)
    assert isinstance(price, Listed)
    assert price.cost(Usage(1_000_000, 0)) > 10 * price.cost(Usage(100_000, 0))


def test_every_listed_model_costs_what_the_list_says():
    """Our own counting of text against genai-prices', for inputs on both sides of every tier in use."""
    compared = 0
    for provider in get_snapshot().providers:
        for model in provider.models:
            price, listed = _listed(provider.id, model.id, NOW, None), model.get_prices(NOW)
            if price is None or (isinstance(price, Listed) and not price.tiers):
                continue
            for read in (0, 1, 32_000, 128_000, 128_001, 200_000, 200_001, 256_001, 272_001, 1_000_000):
                used = Usage(
                    read, 700, cached_tokens=read // 3, written_tokens=read // 4, written_hour_tokens=read // 5
                )
                assert price.cost(used) == listed.calc_price(PricedUsage(**_told(used)))["total_price"], model.id
                if isinstance(price, Listed):
                    slow = Listed(price.price, price.label)
                    assert price.bound(read, 700, hour=True) == slow.bound(read, 700, hour=True), model.id
                compared += 1
    assert compared > 10_000


def test_a_fee_for_each_request_is_part_of_the_cost():
    price = Prices().of("perplexity", "sonar", NOW)
    assert price.cost(Usage(1000, 500)) == Decimal("0.0135")
    assert price.bound(1000, 500) >= Decimal("0.0135")


def test_an_unknown_model_is_refused_unless_the_operator_set_a_price():
    with pytest.raises(PriceUnknown, match="openai:nobody-knows"):
        Prices().of("openai", "nobody-knows", NOW)
    assert Prices("0").of("openai", "nobody-knows", NOW).cost(Usage(9, 9)) == 0
    assert Prices("2.5").of("openai", "nobody-knows", NOW).cost(Usage(1_000_000, 1_000_000)) == 5


def test_names_that_clients_make_up_never_become_labels():
    assert Prices("0").of("openai", "made-up", NOW).label == "other"
    assert Prices().of("openai", "gpt-4o-2024-08-06", NOW).label == "gpt-4o"


def test_a_flat_price_is_paid_for_any_use():
    assert PerCall(Decimal("0.1"), "echo").cost(Usage(1, 0)) == Decimal("0.1")
    assert PerCall(Decimal("0.1"), "echo").cost(Usage()) == 0
    assert PerToken(Decimal(1), Decimal(1), Decimal(1), "x").cost(Usage()) == 0


@pytest.mark.parametrize(
    ("provider", "model", "fee"),
    [
        ("anthropic", "claude-sonnet-4-5", 10),
        ("openai", "gpt-5", 10),
        ("google", "gemini-2.5-pro", 35),
        ("google", "gemini-3-pro-preview", 14),
        ("openai", "gpt-4-turbo", None),
        ("nobody", "m", None),
    ],
)
def test_fees_of_web_searches_are_those_of_the_list(provider, model, fee):
    assert Prices().search_fee(provider, model, datetime(2026, 11, 1, tzinfo=UTC)) == fee
