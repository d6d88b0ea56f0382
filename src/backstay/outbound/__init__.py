"""Outbound: calls to others, made so that neither their failures nor their addresses hurt us.

Owns        nothing in the database: breakers and retry budgets live in one process
States      of a breaker: closed → open → half_open → closed | open
Guarantees  A dependency that fails is left alone while its breaker is open; after that it gets one call at a time until
            one succeeds. A call whose end is never told cannot keep a breaker from closing.
            Retries are a bounded share of the calls, whatever each call would like.
            A guarded call reaches public addresses and the networks that an operator allows, and nothing else: the
            addresses that were judged are the ones that are connected to.

`client` makes whole calls, `connector` holds the guarded way out beneath it; both are imported by themselves, because
they bring the HTTP library along.
"""

from .addresses import AddressGuard, Place
from .backoff import full_jitter, retry_after
from .breaker import Breaker, Breakers, Permit
from .exchange import Answer, Request
from .models import (
    AddressPolicy,
    AddressRefused,
    BreakerPolicy,
    Change,
    Destination,
    HostUnresolved,
    Overdue,
    RedirectRefused,
    Resting,
    RetryPolicy,
    State,
    Unreachable,
)
from .retry_budget import RetryBudget

__all__ = [
    "AddressGuard",
    "AddressPolicy",
    "AddressRefused",
    "Answer",
    "Breaker",
    "BreakerPolicy",
    "Breakers",
    "Change",
    "Destination",
    "HostUnresolved",
    "Overdue",
    "Permit",
    "Place",
    "RedirectRefused",
    "Request",
    "Resting",
    "RetryBudget",
    "RetryPolicy",
    "State",
    "Unreachable",
    "full_jitter",
    "retry_after",
]
