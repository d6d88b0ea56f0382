"""An account at a provider: where it is, who we are there, and how a request reaches it."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from decimal import Decimal
from functools import cache
from hashlib import sha256
from urllib.parse import urlencode

from ..exchange import Exchange
from ..pricing import Price, Prices
from ..upstream import Upstream
from ..wire import Quirks
from ..wire.gemini import path
from .base import Outgoing
from .table import CHAT, GEMINI, PATHS, ProviderKind, kinds

LOCAL_KEY = "none"  # servers on one's own machine want a key in form only


class Account:
    """`name:<model>` at `base_url`.

    An account of kind openai at a base URL of its own is taken for a server that speaks chat completions and
    embeddings only, as most such servers do; `wires` says otherwise.
    """

    def __init__(
        self,
        kind: ProviderKind,
        upstream: Upstream,
        prices: Prices,
        key: str | None,
        base_url: str | None = None,
        *,
        name: str | None = None,
        wires: tuple[str, ...] | None = None,
        api_version: str | None = None,
    ) -> None:
        self._kind, self._upstream, self._prices = kind, upstream, prices
        self._url = _base(kind, base_url)
        own_place = base_url is not None and self._url != kind.url
        self._listed_url = self._url if own_place else None
        self._name = name or kind.name
        self._wires = wires or ((CHAT,) if own_place and kind.name == "openai" else kind.wires)
        self._api_version = api_version
        secret = key or LOCAL_KEY
        given = f"Bearer {secret}" if kind.auth == "bearer" else secret
        self._headers = {
            "content-type": "application/json",
            "authorization" if kind.auth == "bearer" else kind.auth: given,
            **kind.headers,
        }
        self._key = sha256(f"{self._url} {secret}".encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        return self._name

    @property
    def key(self) -> str:
        return self._key

    @property
    def wires(self) -> tuple[str, ...]:
        return self._wires

    @property
    def embeds(self) -> str | None:
        return self._kind.embeds

    @property
    def quirks(self) -> Quirks:
        return self._kind.quirks

    @property
    def refusal(self) -> str:
        """What to look at when the provider does not accept the key."""
        variable = f" ({self._kind.key})" if self._kind.key and self._name == self._kind.name else ""
        return f"the provider {self._name} does not accept the key it was called with; check it{variable}"

    def post(self, outgoing: Outgoing) -> AbstractAsyncContextManager[Exchange]:
        headers = {**self._headers, **outgoing.headers}
        return self._upstream.post(self._address(outgoing), outgoing.body, headers, outgoing.connect)

    def price(self, model: str, at: datetime) -> Price:
        return self._prices.of(self._kind.prices or self._kind.name, model, at, self._listed_url)

    def search_fee(self, model: str, at: datetime) -> Decimal | None:
        return self._prices.search_fee(self._kind.prices or self._kind.name, model, at, self._listed_url)

    def canonical(self, model: str) -> str:
        return model

    def models(self) -> list[str]:
        # At another base URL nobody knows what is served before asking.
        return [] if self._listed_url else list(_known(self._kind.prices or self._kind.name))

    def _address(self, outgoing: Outgoing) -> str:
        if outgoing.wire == GEMINI:
            return f"{self._url}/v1beta/{path(outgoing.model, outgoing.kind, outgoing.stream)}"
        place = PATHS[outgoing.wire, outgoing.kind]
        if self._api_version is None:
            return self._url + place
        # Azure's older addresses name the deployment and a dated version.
        deployment = self._url.removesuffix("/v1") + f"/deployments/{outgoing.model}"
        return f"{deployment}{place}?{urlencode({'api-version': self._api_version})}"


def _base(kind: ProviderKind, given: str | None) -> str:
    if given is None:
        if kind.url is None:
            raise ValueError(f"an account of kind {kind.name} needs a base URL")
        return kind.url
    base = given.rstrip("/")
    if "://" not in base:
        base = f"http://{base}"
    if base == kind.url or not kind.suffix or base.endswith(kind.suffix):
        return base
    return base + kind.suffix


@cache
def _known(provider: str) -> tuple[str, ...]:
    from genai_prices.data_snapshot import get_snapshot  # late: see pricing

    found = get_snapshot().find_provider(None, provider, None)
    return tuple(sorted(model.id for model in found.models if not model.deprecated))


def configured(variables: Mapping[str, str], upstream: Upstream, prices: Prices) -> list[Account]:
    """The accounts that the environment makes: a key or a base URL is enough."""
    found = []
    for kind in kinds().values():
        key, base = variables.get(kind.key or ""), variables.get(kind.base or "")
        if base or (key and kind.url):
            version = variables.get("AZURE_OPENAI_API_VERSION") if kind.name == "azure" else None
            found.append(Account(kind, upstream, prices, key, base, api_version=version))
    return found
