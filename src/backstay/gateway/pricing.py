"""What tokens cost, by genai-prices: its bundled data only, never fetched from anywhere.

Costs are exact Decimals in USD, never rounded.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from .errors import PriceUnknown
from .models import ZERO, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

_MILLION = Decimal(1_000_000)
# What a model charges for, in genai-prices' words. Searches are priced on their own; see `search_fee`.
_TEXT = frozenset({"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok"})
_SPOKEN = frozenset({"output_audio_mtok", "output_image_mtok"})
_MEDIA = _SPOKEN | {"input_audio_mtok", "cache_audio_read_mtok", "input_image_mtok", "cache_image_read_mtok"}
_SEARCHES = frozenset({"web_searches_kcount", "storage_searches_kcount"})
_ANY_LENGTH = -1


class Price(Protocol):
    """What one call costs. `label` names the model in metrics: a listed name, never what a client made up."""

    @property
    def label(self) -> str: ...

    def cost(self, usage: Usage) -> Decimal:
        """USD for what was used."""
        ...

    def bound(self, input_tokens: int, output_tokens: int, *, media: bool = False, hour: bool = False) -> Decimal:
        """The most that so many tokens can cost, in USD, whatever is read from or written to a prompt cache. `media`:
        some may be of sound or pictures; `hour`: the cache may be asked to keep some for an hour."""
        ...


@dataclass(frozen=True, slots=True)
class PerToken:
    """USD per million tokens: read, written, read from a prompt cache, written to one, and kept there for an hour."""

    input: Decimal
    output: Decimal
    cached: Decimal
    label: str
    written: Decimal | None = None
    hour: Decimal | None = None

    def cost(self, usage: Usage) -> Decimal:
        total = usage.output_tokens * self.output + usage.cached_tokens * self.cached
        fresh = usage.input_tokens - usage.cached_tokens
        if usage.written_tokens:
            fresh -= usage.written_tokens
            short = usage.written_tokens - usage.written_hour_tokens
            total += short * self._written + usage.written_hour_tokens * self._hour
        return (total + fresh * self.input) / _MILLION

    def bound(self, input_tokens: int, output_tokens: int, *, media: bool = False, hour: bool = False) -> Decimal:
        dearest = max(self.input, self.cached, self._hour if hour else self._written)
        return (input_tokens * dearest + output_tokens * self.output) / _MILLION

    @property
    def _written(self) -> Decimal:
        return self.input if self.written is None else self.written

    @property
    def _hour(self) -> Decimal:
        return self._written if self.hour is None else self.hour


@dataclass(frozen=True, slots=True)
class PerCall:
    """A flat price for a call that used anything at all; the simulator's `price=` option."""

    usd: Decimal
    label: str

    def cost(self, usage: Usage) -> Decimal:
        return self.usd if usage.input_tokens or usage.output_tokens else ZERO

    def bound(self, input_tokens: int, output_tokens: int, *, media: bool = False, hour: bool = False) -> Decimal:
        return self.usd


@dataclass(frozen=True, slots=True)
class _Tier:
    """Prices of text for inputs of more than `above` tokens. `dearest_output`: of what the model may answer with."""

    above: int
    text: PerToken
    dearest_output: Decimal


@dataclass(frozen=True, slots=True)
class Listed:
    """Prices that depend on the length of the input, or on what the tokens are of. Text is counted by its tier; the
    rest, and models that charge for something else besides, by genai-prices, which takes many times as long.

    `tiers`: of text, those of the longest inputs first; empty for models that charge for something else.
    """

    price: "ModelPrice"
    label: str
    tiers: tuple[_Tier, ...] = ()

    def cost(self, usage: Usage) -> Decimal:
        if self.tiers and not _has_media(usage):
            return self._tier(usage.input_tokens).text.cost(usage)
        from genai_prices import Usage as PricedUsage

        used = PricedUsage(**_told(usage))
        return self.price.calc_price(used)["total_price"]

    def bound(self, input_tokens: int, output_tokens: int, *, media: bool = False, hour: bool = False) -> Decimal:
        if self.tiers and not media:
            tier = self._tier(input_tokens)
            spoken = output_tokens * (tier.dearest_output - tier.text.output) / _MILLION
            return tier.text.bound(input_tokens, output_tokens, hour=hour) + spoken
        read, written = input_tokens, output_tokens
        ways = [Usage(read), Usage(read, cached_tokens=read), Usage(read, written_tokens=read)]
        if hour:
            ways.append(Usage(read, written_tokens=read, written_hour_tokens=read))
        if media:
            ways += [Usage(read, input_audio_tokens=read), Usage(read, input_image_tokens=read)]
        # Tiers go by what is read, so what is written is priced beside it. A model that can speak or draw may.
        ends = [Usage(read, written), Usage(read, written, output_audio_tokens=written)]
        ends.append(Usage(read, written, output_image_tokens=written))
        plain = self.cost(Usage(read))
        return max(map(self.cost, ways)) + max(map(self.cost, ends)) - plain

    def _tier(self, input_tokens: int) -> _Tier:
        return next(tier for tier in self.tiers if input_tokens > tier.above)


def _has_media(usage: Usage) -> bool:
    return bool(
        usage.input_audio_tokens or usage.output_audio_tokens or usage.input_image_tokens or usage.output_image_tokens
    )


def _told(usage: Usage) -> dict[str, int]:
    """The usage in genai-prices' words. It must be told what is of two kinds at once, such as sound read from a
    cache.
    """
    kinds = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.written_tokens,
        "cache_write_1h_tokens": usage.written_hour_tokens,
        "input_audio_tokens": usage.input_audio_tokens,
        "output_audio_tokens": usage.output_audio_tokens,
        "input_image_tokens": usage.input_image_tokens,
        "output_image_tokens": usage.output_image_tokens,
    }
    told = {name: count for name, count in kinds.items() if count or name in ("input_tokens", "output_tokens")}
    for of, count in (("audio", usage.input_audio_tokens), ("image", usage.input_image_tokens)):
        for use, part in (("read", usage.cached_tokens), ("write", usage.written_tokens)):
            if count and part:
                told[f"cache_{of}_{use}_tokens"] = max(0, count + part - usage.input_tokens)
    return told


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

    def search_fee(self, provider: str, model: str, at: datetime, base_url: str | None = None) -> Decimal | None:
        """USD per 1,000 searches in the web that `model` makes; None when it is not known. Whether that matters depends
        on what is asked."""
        return _listed_fee(provider, model, datetime(at.year, at.month, at.day, tzinfo=UTC), base_url)

    @property
    def refuses(self) -> bool:
        """What has no known price is refused."""
        return self._unknown is None


@lru_cache(maxsize=4096)
def _listed(provider: str, model: str, day: datetime, base_url: str | None) -> Price | None:
    info = _info(provider, model, base_url)
    if info is None:
        return None
    price = info.get_prices(day)
    charged = {name for name, value in vars(price).items() if value is not None and not name.startswith("_")}
    kinds = charged - _TEXT - _SEARCHES
    if "input_mtok" not in charged or not kinds <= _MEDIA:
        return Listed(price, info.id)
    starts = {tier.start for name in charged & (_TEXT | _MEDIA) for tier in getattr(getattr(price, name), "tiers", ())}
    tiers = tuple(_tier(price, above, info.id) for above in sorted({*starts, _ANY_LENGTH}, reverse=True))
    return Listed(price, info.id, tiers) if kinds or starts else tiers[0].text


def _tier(price: "ModelPrice", above: int, label: str) -> _Tier:
    rates = {name: _rate(getattr(price, name), above) for name in (*_TEXT, *_SPOKEN)}
    read, write = rates["input_mtok"] or ZERO, rates["output_mtok"] or ZERO
    cached, written, hour = rates["cache_read_mtok"], rates["cache_write_mtok"], rates["cache_write_1h_mtok"]
    text = PerToken(read, write, read if cached is None else cached, label, written, hour)
    return _Tier(above, text, max(write, *(rates[name] or ZERO for name in _SPOKEN)))


def _rate(price: "Decimal | TieredPrices | None", above: int) -> Decimal | None:
    """USD per million tokens of an input longer than `above`. In the list, a tier's price is that of all tokens."""
    if price is None or isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if tier.start <= above), price.base)


@lru_cache(maxsize=4096)
def _listed_fee(provider: str, model: str, day: datetime, base_url: str | None) -> Decimal | None:
    info = _info(provider, model, base_url)
    fee = None if info is None else info.get_prices(day).web_searches_kcount
    return fee if isinstance(fee, Decimal) else None


def _info(provider: str, model: str, base_url: str | None) -> "ModelInfo | None":
    # Imported with the first price: it brings an HTTP client along, which a start should not wait for.
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    if base_url is not None:
        with suppress(LookupError):
            return snapshot.find_provider_model(model, None, None, base_url)[1]
    with suppress(LookupError):
        return snapshot.find_provider_model(model, None, provider, None)[1]
    return None
