"""Finds who answers to a model's name."""

from collections.abc import Iterable

from .base import Provider


class Providers:
    """The operator's providers by name."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._by_name = {provider.name: provider for provider in providers}

    def named(self, name: str) -> Provider | None:
        return self._by_name.get(name)

    def models(self) -> list[tuple[str, str]]:
        """Listed models as (provider, model)."""
        return [(provider.name, model) for provider in self._by_name.values() for model in provider.models()]

    def mend(self) -> str:
        """What to do when a name leads nowhere."""
        names = ", ".join(f"{name}:<model>" for name in sorted(self._by_name))
        more = "" if "openai" in self._by_name else "; set OPENAI_API_KEY (and OPENAI_BASE_URL) for openai:<model>"
        return f"configured: {names}{more}"
