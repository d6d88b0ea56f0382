"""What the gateway asks of a provider."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from ..dialogue import Kind
from ..exchange import Exchange
from ..models import ZERO, Usage
from ..pricing import Price
from ..wire.base import Quirks


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it leaves: in the format `wire`, about `model` (the provider's own name for it). `connect`: seconds
    for a connection."""

    wire: str
    kind: Kind
    model: str
    stream: bool
    body: bytes
    headers: Mapping[str, str]
    connect: float | None = None


class Provider(Protocol):
    """One provider account.

    `wires`: the formats of answers that it speaks, the best first; `embeds`: the format of its embeddings.
    `key`: what tells two accounts with the same name apart, for breakers. `refusal`: what to say when it refuses our
    key.
    """

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def refusal(self) -> str: ...

    @property
    def wires(self) -> tuple[str, ...]: ...

    @property
    def embeds(self) -> str | None: ...

    @property
    def quirks(self) -> Quirks: ...

    def post(self, outgoing: Outgoing) -> AbstractAsyncContextManager[Exchange]:
        """Sends a request and waits for the beginning of its answer."""
        ...

    def price(self, model: str, at: datetime) -> Price:
        """The price of the model as it was asked for, options included."""
        ...

    def search_fee(self, model: str, at: datetime) -> Decimal | None:
        """USD per 1,000 searches in the web that the provider makes for this model; None when it is not known."""
        ...

    def canonical(self, model: str) -> str:
        """The model's name without options: what budgets, spend and audit know it by."""
        ...

    def models(self) -> list[str]:
        """Names worth listing; a provider may answer to more."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and for what: `asked` goes out, `model` is recorded.

    `place`: the tenant whose own account it is, if it is one's, and the name it was found by; its latencies and its
    breaker are kept under it. `window`: input and output tokens together, where it is known. `search_fee`: USD per
    1,000 searches in the web, where it is known.
    """

    provider: Provider
    asked: str
    model: str
    price: Price
    place: tuple[UUID | None, str]
    window: int | None = None
    search_fee: Decimal | None = None

    def cost(self, usage: Usage) -> Decimal:
        """USD for what was used. A search whose fee is unknown costs nothing: who lets unknown prices pass has their
        number in the ledger."""
        return self.price.cost(usage) + self._searches(usage.web_searches)

    def bound(
        self, input_tokens: int, output_tokens: int, *, media: bool = False, hour: bool = False, searches: int = 0
    ) -> Decimal:
        """As `Price.bound`, with so many searches in the web."""
        return self.price.bound(input_tokens, output_tokens, media=media, hour=hour) + self._searches(searches)

    def _searches(self, count: int) -> Decimal:
        return count * (self.search_fee or ZERO) / 1000 if count else ZERO

    @property
    def name(self) -> str:
        return f"{self.provider.name}:{self.model}"

    def wire_for(self, surface: str) -> str:
        """The client's own format when the provider speaks it, else the provider's best."""
        return surface if surface in self.provider.wires else self.provider.wires[0]
