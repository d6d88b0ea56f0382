"""What the gateway asks of a provider."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ..exchange import Exchange
from ..pricing import Price


class Provider(Protocol):
    """One provider, spoken to in the OpenAI format."""

    name: str

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Exchange]:
        """Sends a request to `chat/completions` or `embeddings`."""
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
    """Whom to ask, and for what: `asked` goes out, `model` is recorded."""

    provider: Provider
    asked: str
    model: str
    price: Price
