"""Gateway: every model call of every surface, through one pipeline.

Owns        call, hold, budget, budget_window, ledger, gateway_process, recent_output
States      of a call: open → finished | abandoned (its process died; → finished when it settles after all)
Guarantees  A provider is asked only after the call's audit entry and its holds are committed.
            Hard budgets and limits hold exactly, over all processes: what is counted and held together never passes
            the limit, as long as a call uses no more tokens than were reserved for it. A call that one of them
            refuses has consumed nothing of the others.
            A budget tells of each threshold once in each window.
            What a call cost is written once, before the end of its answer leaves (durability strict).
            A process that dies gives back what it held.
"""

from .allowance import Allowance
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
    RateLimited,
    StreamCut,
    TagRequired,
)
from .guards import AnswerGuard, Guard, GuardContext
from .limits import Limits
from .models import Answer, CallRow, Embeddings, SpendFilter, SpendRow, Timeouts, Usage
from .redactor import Redactor
from .service import Gateway
from .terms import Budget, BudgetExists, BudgetNotFound, LimitExists, LimitNotFound, RateLimit, Scope

__all__ = [
    "Allowance",
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
    "LimitExists",
    "LimitNotFound",
    "Limits",
    "ModelNotFound",
    "PriceUnknown",
    "ProviderFailed",
    "ProviderRefused",
    "ProviderResting",
    "ProviderTimeout",
    "ProviderUnreachable",
    "RateLimit",
    "RateLimited",
    "Redactor",
    "Scope",
    "SpendFilter",
    "SpendRow",
    "StreamCut",
    "TagRequired",
    "Timeouts",
    "Usage",
]
