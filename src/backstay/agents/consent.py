"""How a human is asked before a tool is called."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal


@dataclass(frozen=True, slots=True)
class Consent:
    """`requires_approval=Consent(...)`: who may decide, and what holds when nobody has decided within `timeout` (None:
    the run waits for ever). `role` and `permission` as in `run.approve`."""

    timeout: timedelta | None = None
    default: Literal["approve", "deny"] = "deny"
    role: str | None = None
    permission: str | None = None


def consent_of(given: "bool | Consent") -> Consent | None:
    return given if isinstance(given, Consent) else Consent() if given else None
