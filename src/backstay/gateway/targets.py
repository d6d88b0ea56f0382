"""Finds whom `provider:model` means for a tenant: the operator's provider, or the tenant's own account."""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from ..kernel.errors import Invalid
from ..outbound import Breaker
from .attempts import Health
from .catalog import Account as StoredAccount
from .catalog import Snapshot
from .errors import GatewayError, ModelNotFound
from .pricing import Price, Prices
from .providers import Provider, Providers, Target
from .providers.table import kinds

if TYPE_CHECKING:
    from .providers.account import Account
    from .upstream import Upstream

_KEPT = 1_000  # accounts


class Targets:
    """`guarded` makes the way out for tenants' own accounts: it reaches no inner address. It is made at first use."""

    def __init__(self, providers: Providers, prices: Prices, guarded: "Callable[[], Upstream]") -> None:
        self._providers, self._prices, self._guarded = providers, prices, guarded
        self._accounts: OrderedDict[tuple[UUID, str, int, UUID | None], Provider] = OrderedDict()

    def of(self, snapshot: Snapshot, name: str, at: datetime, window: int | None = None) -> Target:
        """Whom `name` means, and what it costs. A price that the tenant has set holds over the listed one.

        Raises:
            ModelNotFound: no provider answers to that name (404). PriceUnknown (422).
            BadModelOptions: the simulator's options are wrong (422).
        """
        provider, asked = self._found(snapshot, name, at)
        canonical = provider.canonical(name.partition(":")[2])
        own = snapshot.price(f"{provider.name}:{canonical}", at)
        price: Price = own or provider.price(asked, at)
        fee = own.rates.web_search if own is not None else None
        if fee is None:
            fee = provider.search_fee(asked, at)
        return Target(provider, asked, canonical, price, snapshot.key(name), window, fee)

    def breaker(self, snapshot: Snapshot, name: str, at: datetime, health: Health) -> Breaker:
        """The breaker of the target that `name` means.

        Raises:
            ModelNotFound: no provider answers to that name (404).
        """
        provider, _ = self._found(snapshot, name, at)
        return health.breaker(snapshot.key(name), provider.key)

    def _found(self, snapshot: Snapshot, name: str, at: datetime) -> tuple[Provider, str]:
        """The provider, and its name for the model."""
        prefix, _, model = name.partition(":")
        stored = snapshot.account(name)
        provider = self._providers.named(prefix) if stored is None else self._account(snapshot, stored, at)
        if provider is None or not model:
            raise ModelNotFound(f"there is no model {name!r}; {self._providers.mend()}")
        return provider, _asked(stored, model)

    def price(self, snapshot: Snapshot, name: str, at: datetime) -> Price | None:
        """The listed price, where there is such a model and such a price."""
        try:
            return self.of(snapshot, name, at).price
        except GatewayError:
            return None

    def _account(self, snapshot: Snapshot, stored: StoredAccount, at: datetime) -> Provider:
        good = next((secret for secret in stored.secrets if secret.good(at)), None)
        key = (snapshot.tenant, stored.name, stored.revision, good.id if good else None)
        known = self._accounts.get(key)
        if known is None:
            known = self._accounts[key] = self._made(snapshot, stored, at)
            if len(self._accounts) > _KEPT:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(key)
        return known

    def _made(self, snapshot: Snapshot, stored: StoredAccount, at: datetime) -> "Account":
        from .providers.account import Account  # late: it brings the HTTP library along

        kind = kinds().get(stored.kind)
        if kind is None:
            raise ModelNotFound(f"the account {stored.name} is of kind {stored.kind}, which this process does not know")
        secrets = snapshot.secrets(stored, at)
        options = stored.options
        try:
            return Account(
                kind,
                self._guarded(),
                self._prices,
                secrets[0].get_secret_value() if secrets else None,
                stored.base_url,
                name=stored.name,
                wires=tuple(options["wires"]) if options.get("wires") else None,
                api_version=options.get("api_version"),
            )
        except (ValueError, TypeError) as error:
            raise Invalid(f"the account {stored.name} cannot be used: {error}") from None


def _asked(stored: StoredAccount | None, model: str) -> str:
    """The provider's name for a model: a deployment's, where the account maps them."""
    deployments = stored.options.get("deployments") if stored is not None else None
    found = deployments.get(model) if isinstance(deployments, dict) else None
    return found if isinstance(found, str) else model
