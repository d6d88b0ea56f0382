"""The audit entries of a call: it started, was refused, or finished."""

from datetime import datetime
from typing import Any
from uuid import UUID

from ..audit import NewEntry
from .models import Reservation, Settlement
from .windows import Window


def started(call: Reservation) -> NewEntry:
    return _entry(
        call,
        "model.call.started",
        call.at,
        payload={"request": call.payload},
        metadata={
            "kind": call.kind,
            "feature": call.tags.feature,
            "key": call.tags.key,
            "streamed": call.streamed,
            "reserved": str(call.reserve),
            "reserved_tokens": call.tokens,
            "mode": call.mode,
            **({"routing": call.why} if call.why else {}),
        },
    )


def refused(call: Reservation, by: Window) -> NewEntry:
    metadata = {
        "feature": call.tags.feature,
        "budget": by.budget_id,
        "unit": by.unit,
        "reserve": str(call.reserve),
        "reserve_tokens": call.tokens,
    }
    return _entry(call, "model.call.refused", call.at, outcome="refused", metadata=metadata)


def closed(call: Reservation, run: UUID) -> NewEntry:
    """The budget of a run bounds the call, and there is none any more."""
    metadata = {"feature": call.tags.feature, "run": run, "unit": "usd", "reserve": str(call.reserve)}
    return _entry(call, "model.call.refused", call.at, outcome="refused", metadata=metadata)


def finished(end: Settlement) -> NewEntry:
    call = end.admitted.reservation
    attempts = [
        {
            "provider": attempt.provider,
            "model": attempt.model,
            "outcome": attempt.outcome,
            "input_tokens": attempt.usage.input_tokens,
            "output_tokens": attempt.usage.output_tokens,
            "cached_tokens": attempt.usage.cached_tokens,
            "written_tokens": attempt.usage.written_tokens,
            "web_searches": attempt.usage.web_searches,
            "estimated": attempt.usage.estimated,
            "cost": str(attempt.cost),
            "seconds": round(attempt.seconds, 6),
        }
        for attempt in end.attempts
    ]
    return _entry(
        call,
        "model.call.finished",
        end.at,
        outcome=end.outcome,
        payload=end.payload or None,
        metadata={
            "feature": call.tags.feature,
            "cost": str(end.cost),
            "attempts": attempts,
            **({"cached": end.cached} if end.cached else {}),
            **({"overspent": str(end.overspent)} if end.overspent else {}),
        },
    )


def _entry(call: Reservation, action: str, at: datetime, **more: Any) -> NewEntry:
    return NewEntry(
        tenant=call.tags.tenant,
        actor_id=call.tags.principal,
        actor=call.tags.actor,
        action=action,
        resource=f"model:{call.provider}:{call.model}",
        at=at,
        run=call.tags.run,
        call=call.id,
        subject=call.tags.user,
        **more,
    )
