"""What tokens cost, by genai-prices: its bundled data only, never fetched from anywhere.

Costs are exact Decimals in USD, never rounded.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from .errors import PriceUnknown
from .models import ZERO, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

_MILLION = Decimal(1_000_000)
_PLAIN_KEYS = ("input_mtok", "output_mtok", "cache_read_mtok")


class Price(Protocol):
    """What one call costs. `label` names the model in metrics: a listed name, never what a client made up."""

    @property
    def label(self) -> str: ...

    def cost(self, usage: Usage) -> Decimal:
        """USD for what was used."""
        ...

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        """The most that so many tokens can cost, in USD."""
        ...


@dataclass(frozen=True, slots=True)
class PerToken:
    """USD per million tokens."""

    input: Decimal
    output: Decimal
    cached: Decimal
    label: str

    def cost(self, usage: Usage) -> Decimal:
        fresh = usage.input_tokens - usage.cached_tokens
        return (fresh * self.input + usage.cached_tokens * self.cached + usage.output_tokens * self.output) / _MILLION

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        return (input_tokens * max(self.input, self.cached) + output_tokens * self.output) / _MILLION


@dataclass(frozen=True, slots=True)
class PerCall:
    """A flat price for a call that used anything at all; the simulator's `price=` option."""

    usd: Decimal
    label: str

    def cost(self, usage: Usage) -> Decimal:
        return self.usd if usage.input_tokens or usage.output_tokens else ZERO

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        return self.usd


@dataclass(frozen=True, slots=True)
class Tiered:
    """Prices that depend on the length of the input: counted by genai-prices."""

    price: "ModelPrice"
    label: str

    def cost(self, usage: Usage) -> Decimal:
        from genai_prices import Usage as PricedUsage

        used = PricedUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cached_tokens,
        )
        return self.price.calc_price(used)["total_price"]

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        return self.cost(Usage(input_tokens, output_tokens))


class Prices:
    """Finds prices. `unknown`: `refuse`, or USD per million tokens where no price is known."""

    def __init__(self, unknown: str = "refuse") -> None:
        self._unknown = None if unknown == "refuse" else Decimal(unknown)

    def of(self, provider: str, model: str, at: datetime, base_url: str | None = None) -> Price:
        """The price of `model` on the day of `at`. A base URL of a known provider decides over `provider`.

        Raises:
            PriceUnknown: there is none, and no price was set for that case (422).
        """
        day = datetime(at.year, at.month, at.day, tzinfo=UTC)  # prices change by the day
        price = _listed(provider, model, day, base_url)
        if price is not None:
            return price
        if self._unknown is None:
            raise PriceUnknown(f"{provider}:{model}")
        return PerToken(self._unknown, self._unknown, self._unknown, "other")


@lru_cache(maxsize=4096)
def _listed(provider: str, model: str, day: datetime, base_url: str | None) -> Price | None:
    # Imported with the first price: it brings an HTTP client along, which a start should not wait for.
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    try:
        if base_url is None:
            raise LookupError
        _, info = snapshot.find_provider_model(model, None, None, base_url)
    except LookupError:
        try:
            _, info = snapshot.find_provider_model(model, None, provider, None)
        except LookupError:
            return None
    price = info.get_prices(day)
    read, write, cached = (getattr(price, key) for key in _PLAIN_KEYS)
    plain = [value for value in (read, write, cached) if value is not None]
    if read is not None and all(isinstance(value, Decimal) for value in plain):
        return PerToken(read, ZERO if write is None else write, read if cached is None else cached, info.id)
    return Tiered(price, info.id)
