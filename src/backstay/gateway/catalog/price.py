"""Prices that a tenant sets, with the dates from which they hold."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..models import Usage
from .route import PREFIX, printable

_MILLION = Decimal(1_000_000)
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def _in_our_time(moment: datetime) -> datetime:
    if not _EARLIEST <= moment <= _LATEST:
        raise ValueError("must lie between the years 2000 and 2200")
    return moment.astimezone(UTC)


Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=20, decimal_places=10, allow_inf_nan=False)]
Moment = Annotated[AwareDatetime, AfterValidator(_in_our_time)]
Pattern = Annotated[
    str,
    StringConstraints(pattern=rf"^{PREFIX}:(\S|\S.*\S)$", max_length=512),
    AfterValidator(printable),
]


class Rates(BaseModel):
    """USD per million tokens. What is left out costs what it is a kind of: cached, written and audio input as `input`,
    written for an hour as `written`, audio output as `output`. Zero is a price."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Usd
    output: Usd
    cached: Usd | None = Field(None, description="Input read from the provider's prompt cache.")
    written: Usd | None = Field(None, description="Input written to the provider's prompt cache.")
    written_hour: Usd | None = Field(None, description="Input written to it for an hour.")
    input_audio: Usd | None = None
    output_audio: Usd | None = None
    web_search: Usd | None = Field(
        None, description="USD per 1,000 searches of the provider's in the web; the listed fee when left out."
    )

    def cost(self, usage: Usage) -> Decimal:
        """USD for what was used, not rounded."""
        written, hour = usage.written_tokens - usage.written_hour_tokens, usage.written_hour_tokens
        special = usage.cached_tokens + usage.written_tokens + usage.input_audio_tokens
        written_rate = _or(self.written, self.input)
        return (
            max(0, usage.input_tokens - special) * self.input
            + usage.cached_tokens * _or(self.cached, self.input)
            + written * written_rate
            + hour * _or(self.written_hour, written_rate)
            + usage.input_audio_tokens * _or(self.input_audio, self.input)
            + (usage.output_tokens - usage.output_audio_tokens) * self.output
            + usage.output_audio_tokens * _or(self.output_audio, self.output)
        ) / _MILLION

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        """The most that so many tokens can cost, in USD."""
        kinds = (self.input, self.cached, self.written, self.written_hour, self.input_audio)
        dearest_read = max(rate for rate in kinds if rate is not None)
        dearest_written = max(self.output, _or(self.output_audio, self.output))
        return (input_tokens * dearest_read + output_tokens * dearest_written) / _MILLION


class NewPrice(Rates):
    """A price to set for a model, or for all whose name begins alike."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"pattern": "openai:gpt-5*", "input": "1.10", "output": "8.80", "starts_at": "2026-02-01T00:00:00Z"}
            ]
        }
    )

    pattern: Pattern = Field(description="`provider:model`, or the beginning of it and `*`.")
    starts_at: Moment | None = Field(None, description="When it begins to hold; now unless given.")
    ends_at: Moment | None = Field(None, description="When it holds no longer; never unless given.")

    @model_validator(mode="after")
    def _a_time_in_between(self) -> Self:
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValueError("`ends_at` must be later than `starts_at`")
        if "*" in self.pattern[:-1]:
            raise ValueError("`*` may stand at the end of a pattern only")
        return self


@dataclass(frozen=True, slots=True)
class Price:
    """A price as it stands: `rates` for models that `pattern` names, from `starts_at` until before `ends_at`."""

    id: UUID
    pattern: str
    rates: Rates
    starts_at: datetime
    ends_at: datetime | None
    created_at: datetime

    def names(self, model: str) -> bool:
        if self.pattern.endswith("*"):
            return model.startswith(self.pattern[:-1])
        return model == self.pattern

    def holds(self, at: datetime) -> bool:
        return self.starts_at <= at and (self.ends_at is None or at < self.ends_at)

    @property
    def label(self) -> str:
        """The name for metrics: one for all, since a tenant's patterns must not become labels."""
        return "override"

    def cost(self, usage: Usage) -> Decimal:
        return self.rates.cost(usage)

    def bound(self, input_tokens: int, output_tokens: int, *, media: bool = False, hour: bool = False) -> Decimal:
        return self.rates.bound(input_tokens, output_tokens)


class PriceList:
    """Prices, for looking them up on every call."""

    def __init__(self, prices: Iterable[Price]) -> None:
        newest_first = sorted(prices, key=lambda price: (price.starts_at, price.id), reverse=True)
        self._exact: dict[str, list[Price]] = defaultdict(list)
        prefixes: dict[str, list[Price]] = defaultdict(list)
        for price in newest_first:
            (prefixes if price.pattern.endswith("*") else self._exact)[price.pattern].append(price)
        self._prefixes = [prefixes[pattern] for pattern in sorted(prefixes, key=len, reverse=True)]

    def at(self, model: str, at: datetime) -> Price | None:
        """The price of `provider:model` at a moment: of the closest pattern that has one then (the exact name, else the
        longest beginning), the one that started last. None when nothing was set."""
        for prices in (self._exact.get(model, ()), *self._prefixes):
            for price in prices:
                if not price.names(model):
                    break
                if price.holds(at):
                    return price
        return None


def _or(rate: Decimal | None, usual: Decimal) -> Decimal:
    return usual if rate is None else rate
