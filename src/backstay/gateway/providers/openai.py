"""OpenAI, and everything that speaks its format at another base URL."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import cache

from ..exchange import Exchange
from ..pricing import Price, Prices
from ..upstream import Upstream

DEFAULT_URL = "https://api.openai.com/v1"
LOCAL_KEY = "none"  # servers on one's own machine want a key in form only


class OpenAIProvider:
    """`openai:<model>` at `base_url`, which ends in /v1 or the like."""

    name = "openai"

    def __init__(self, upstream: Upstream, prices: Prices, key: str | None, base_url: str | None = None) -> None:
        self._upstream, self._prices = upstream, prices
        self._url = (base_url or DEFAULT_URL).rstrip("/")
        self._listed_url = base_url.rstrip("/") if base_url and base_url.rstrip("/") != DEFAULT_URL else None
        self._headers = {"content-type": "application/json", "authorization": f"Bearer {key or LOCAL_KEY}"}

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Exchange]:
        return self._upstream.post(f"{self._url}/{path}", body, {**self._headers, **headers})

    def price(self, model: str, at: datetime) -> Price:
        return self._prices.of(self.name, model, at, self._listed_url)

    def canonical(self, model: str) -> str:
        return model

    def models(self) -> list[str]:
        # At another base URL nobody knows what is served before asking.
        return [] if self._listed_url else list(_known())


@cache
def _known() -> tuple[str, ...]:
    from genai_prices.data_snapshot import get_snapshot  # late: see pricing

    provider = get_snapshot().find_provider(None, "openai", None)
    return tuple(sorted(model.id for model in provider.models if not model.deprecated))
