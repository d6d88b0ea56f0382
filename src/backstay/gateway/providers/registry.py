"""Finds who answers to a model's name."""

from collections.abc import Iterable
from datetime import datetime

from ..errors import ModelNotFound
from .base import Provider, Target

_FINE_TUNED = "ft"  # ft:gpt-4o:… is a name of OpenAI's own


class Providers:
    """The configured providers. A name without `provider:` means openai, as its official client sends it."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._by_name = {provider.name: provider for provider in providers}

    def target(self, name: str, at: datetime) -> Target:
        """Whom `provider:model` means, and what it costs.

        Raises:
            ModelNotFound: no configured provider answers to that name (404).
            BadModelOptions: the simulator's options are wrong (422).
            PriceUnknown: no price is known, and none was set for that case (422).
        """
        prefix, colon, model = name.partition(":")
        if not colon or prefix == _FINE_TUNED:
            prefix, model = "openai", name
        provider = self._by_name.get(prefix)
        if provider is None or not model:
            raise ModelNotFound(f"there is no model {name!r}; {self._mend()}")
        return Target(provider, model, provider.canonical(model), provider.price(model, at))

    def models(self) -> list[tuple[str, str]]:
        """Listed models as (provider, model)."""
        return [(provider.name, model) for provider in self._by_name.values() for model in provider.models()]

    def _mend(self) -> str:
        names = ", ".join(f"{name}:<model>" for name in sorted(self._by_name))
        more = "" if "openai" in self._by_name else "; set OPENAI_API_KEY (and OPENAI_BASE_URL) for openai:<model>"
        return f"configured: {names}{more}"
