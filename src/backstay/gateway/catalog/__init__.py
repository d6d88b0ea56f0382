"""Catalog: the gateway's configuration as data, one for each tenant, and the decision where a call goes.

Owns        route, provider_account, provider_secret, price_override, required_tags, catalog_revision
States      of a secret: used → ending (`ends_at`) → gone; a revoked one is deleted
Guarantees  A change is seen by the process that commits it at once, by the others within a moment, and within ten
            seconds when no wake-up reaches them; what is not committed is seen by nobody.
            While the database is away, the last catalogue read holds.
            A secret is sealed for its tenant and account, and no answer, log, error or audit entry has it.
            The same request, state and random numbers give the same plan.
"""

from .complexity import Complexity
from .decision import Choice, NoTargetServes, Plan, State, decide
from .facts import Facts
from .latency import LatencyBoard
from .models import (
    Account,
    CatalogFull,
    NewAccount,
    PriceExists,
    PriceNotFound,
    ProviderNotFound,
    RevisionMismatch,
    RouteNotFound,
    RouteUnreadable,
    SecretNeeded,
    SecretNotFound,
    StoredRoute,
)
from .price import NewPrice, Price, PriceList, Rates
from .route import CachePolicy, Deadlines, Range, Route, RouteDefinition, RouteTarget, When, defined
from .service import Catalog
from .snapshot import Snapshot
from .tags import RequiredTags

__all__ = [
    "Account",
    "CachePolicy",
    "Catalog",
    "CatalogFull",
    "Choice",
    "Complexity",
    "Deadlines",
    "Facts",
    "LatencyBoard",
    "NewAccount",
    "NewPrice",
    "NoTargetServes",
    "Plan",
    "Price",
    "PriceExists",
    "PriceList",
    "PriceNotFound",
    "ProviderNotFound",
    "Range",
    "Rates",
    "RequiredTags",
    "RevisionMismatch",
    "Route",
    "RouteDefinition",
    "RouteNotFound",
    "RouteTarget",
    "RouteUnreadable",
    "SecretNeeded",
    "SecretNotFound",
    "Snapshot",
    "State",
    "StoredRoute",
    "When",
    "decide",
    "defined",
]
