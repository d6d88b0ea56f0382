"""What the gateway asks of a provider."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from ..exchange import Exchange
from ..pricing import Price

Kind = Literal["chat", "embed", "count"]


@dataclass(frozen=True, slots=True)
class Quirks:
    """In what a provider departs from the formats it speaks.

    `drops`: fields it refuses; `renames`: fields it knows by another name. `default_max_tokens`: what to ask for where
    the format demands a limit and the caller named none.
    """

    max_tokens_field: str = "max_tokens"
    developer_role: bool = False
    default_max_tokens: int = 4096
    drops: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict)

    def adapt(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request of the provider's own format, without what this provider refuses."""
        if not self.drops and not self.renames:
            return body
        return {self.renames.get(name, name): value for name, value in body.items() if name not in self.drops}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it leaves: in the format `wire`, about `model` (the provider's own name for it)."""

    wire: str
    kind: Kind
    model: str
    stream: bool
    body: bytes
    headers: Mapping[str, str]


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

    def canonical(self, model: str) -> str:
        """The model's name without options: what budgets, spend and audit know it by."""
        ...

    def models(self) -> list[str]:
        """Names worth listing; a provider may answer to more."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and for what: `asked` goes out, `model` is recorded. `window`: input and output tokens together,
    where it is known."""

    provider: Provider
    asked: str
    model: str
    price: Price
    window: int | None = None

    @property
    def name(self) -> str:
        return f"{self.provider.name}:{self.model}"

    def wire_for(self, surface: str) -> str:
        """The client's own format when the provider speaks it, else the provider's best."""
        return surface if surface in self.provider.wires else self.provider.wires[0]
