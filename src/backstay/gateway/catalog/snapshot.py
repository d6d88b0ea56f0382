"""A tenant's catalogue at one moment: what a call goes by, from its begin to its end."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from pydantic import SecretStr

from ...kernel.crypto import Vault
from ..errors import ModelNotFound
from .models import FINE_TUNED, Account, StoredRoute, sealing_context
from .price import Price, PriceList
from .route import MAX_MODEL, Route
from .tags import RequiredTags

TargetKey = tuple[UUID | None, str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Routes of the tenant and of the operator, accounts, prices and mandatory tags. Secrets stay sealed until they are
    asked for."""

    tenant: UUID
    revision: int
    routes: Mapping[str, StoredRoute]
    accounts: Mapping[str, Account]
    prices: PriceList = field(repr=False)
    vault: Vault = field(repr=False)
    tags: RequiredTags = field(default_factory=RequiredTags)

    def route(self, name: str, plain: str | None = None) -> Route:
        """The route that a caller's model name means: one of that name, else the model itself.

        `plain`: the provider that a name without one means, if it is configured.

        Raises:
            ModelNotFound: there is none; the message has the near names (404).
            RouteUnreadable: a newer release has stored it (503).
        """
        if (stored := self.routes.get(name)) is not None:
            return stored.readable()
        prefix, colon, model = name.partition(":")
        sound = name.isprintable() and len(name) <= MAX_MODEL
        if sound and colon and prefix and model and prefix != FINE_TUNED:
            return Route.direct(name)
        if sound and name and plain is not None:
            return Route.direct(f"{plain}:{name}")
        raise ModelNotFound(f"there is no route or model {name[:100]!r}; {self._near(name)}")

    def account(self, model: str) -> Account | None:
        """The tenant's own account that `name:model` begins with."""
        return self.accounts.get(model.partition(":")[0])

    def secrets(self, account: Account, at: datetime) -> list[SecretStr]:
        """The account's keys that are good at a moment, newest first; during a rotation there are two.

        Raises:
            Unsealable: they were sealed under another master key (500).
        """
        return [
            SecretStr(self.vault.open(secret.sealed, sealing_context(self.tenant, account.name, secret.id)).decode())
            for secret in account.secrets
            if secret.good(at)
        ]

    def price(self, model: str, at: datetime) -> Price | None:
        """What the tenant has set for `provider:model`; None: the listed price holds."""
        return self.prices.at(model, at)

    def key(self, model: str) -> TargetKey:
        """Under what latencies and breakers of a target are kept: a tenant's own account is nobody else's."""
        return (self.tenant if self.account(model) else None), model

    def _near(self, name: str) -> str:
        lower = {route.lower(): route for route in self.routes}
        near = [lower[found] for found in difflib.get_close_matches(name.lower()[:100], lower, n=3)]
        if near:
            return f"did you mean {' or '.join(near)}?"
        some = ", ".join(sorted(self.routes)[:10])
        return f"there are {some}, and models as provider:model" if some else "a model is written provider:model"
