"""Notices: an event when a budget's spend reaches a threshold, once for each window and threshold.

The highest percent of which was told stands in the window's row and moves with the spend, under the same lock, and the
event is written in the same transaction. So it is told once, however many processes settle.
"""

from collections.abc import Sequence

from ..events import Events
from ..kernel.db import Tx
from . import store
from .terms import Period

THRESHOLDS = (50, 80, 100)  # percent of the limit
EVENT = "budget.threshold"


async def give(events: Events, tx: Tx, budgets: Sequence[store.Reached]) -> None:
    """Emits the thresholds that these budgets have reached, lowest first."""
    async with store.together(tx):
        for budget in budgets:
            resets = Period(budget.period).resets_at(budget.starts_at)
            told = {
                "budget": str(budget.budget_id),
                "scope": budget.scope,
                "subject": budget.subject,
                "spent": f"{budget.spent:f}",
                "limit": f"{budget.amount:f}",
                "hard": budget.hard,
                "window": budget.period,
                "starts_at": budget.starts_at.isoformat(),
                "resets_at": resets.isoformat() if resets else None,
            }
            for percent in THRESHOLDS:
                if budget.told < percent <= budget.reached:
                    await events.emit(tx, EVENT, {**told, "percent": percent}, tenant=budget.tenant_id)
