"""Gateway: every model call of every surface, through one pipeline.

Owns        call, hold, budget, budget_window, ledger, gateway_process
States      of a call: open → finished | abandoned (its process died; → finished when it settles after all)
Guarantees  A provider is asked only after the call's audit entry and its holds are committed.
            Hard budgets hold exactly, over all processes: spent and held together never pass the limit, as long as a
            call uses no more tokens than were reserved for it.
            What a call cost is written once, before the end of its answer leaves (durability strict).
            A process that dies gives back what it held.
"""

from .budgets import Budgets
from .errors import (
    BadModelOptions,
    BudgetExceeded,
    ContentFiltered,
    ContextTooLong,
    GatewayError,
    GuardBlocked,
    ModelNotFound,
    PriceUnknown,
    ProviderFailed,
    ProviderRefused,
    ProviderResting,
    ProviderTimeout,
    ProviderUnreachable,
    StreamCut,
)
from .guards import AnswerGuard, Guard, GuardContext
from .models import Answer, Budget, BudgetExists, BudgetNotFound, CallRow, Embeddings, SpendRow, Timeouts, Usage
from .redactor import Redactor
from .service import Gateway

__all__ = [
    "Answer",
    "AnswerGuard",
    "BadModelOptions",
    "Budget",
    "BudgetExceeded",
    "BudgetExists",
    "BudgetNotFound",
    "Budgets",
    "CallRow",
    "ContentFiltered",
    "ContextTooLong",
    "Embeddings",
    "Gateway",
    "GatewayError",
    "Guard",
    "GuardBlocked",
    "GuardContext",
    "ModelNotFound",
    "PriceUnknown",
    "ProviderFailed",
    "ProviderRefused",
    "ProviderResting",
    "ProviderTimeout",
    "ProviderUnreachable",
    "Redactor",
    "SpendRow",
    "StreamCut",
    "Timeouts",
    "Usage",
]
