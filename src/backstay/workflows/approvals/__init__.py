"""Approvals: a run asks, people decide, and what they decide is evidence.

Owns        approval
States      pending → approved | denied | expired (nobody decided in time) | withdrawn (the run ended before)
Guarantees  There is one decision: it commits with its audit entry, its event and the run's wake-up, and every later one
            gets a conflict. An edited request is an override: its entry names the entry of the request and holds each
            changed field before and after.
            Who decides has `approvals:write` and the role or permission that the run demands, and sees the approvals of
            their own tenant only.
            A run that waits for a decision holds no process and no connection, for as long as it takes.
"""

from .asking import approve
from .models import (
    ApprovalClosed,
    ApprovalNotFound,
    ApprovalState,
    ApprovalView,
    Decision,
    EditInvalid,
)
from .service import Approvals

__all__ = [
    "ApprovalClosed",
    "ApprovalNotFound",
    "ApprovalState",
    "ApprovalView",
    "Approvals",
    "Decision",
    "EditInvalid",
    "approve",
]
