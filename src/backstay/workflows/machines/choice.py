"""Which way an event leads: the state says which are open, the guards which of them may be taken."""

import inspect
from typing import Any

from ...kernel.db import Tx
from ...kernel.principal import Principal
from .definition import Definition, Guard, Rule, handed_in
from .models import CodeMissing, GuardRefused, IllegalTransition, Instance, UnknownEvent


async def choose(
    definition: Definition, instance: Instance, event: str, data: dict[str, Any], by: Principal, tx: Tx
) -> Rule:
    """The first way that is open and not refused.

    Raises:
        UnknownEvent: the machine has no such event. IllegalTransition: not in this state.
        GuardRefused: every guard said no; it has their reasons. CodeMissing: a guard's code is not here.
    """
    if event not in definition.events:
        known = ", ".join(map(repr, definition.events)) or "none"
        raise UnknownEvent(f"machine {definition.name} has no event {event!r}; it has {known}")
    ways = definition.ways(instance.state, event)
    if not ways:
        raise IllegalTransition(
            f"{event!r} leads nowhere from there", instance.state, definition.allowed(instance.state)
        )
    reasons = []
    for rule in ways:
        try:
            if rule.guard is None or await ask(rule.guard, instance, data, by, tx):
                return rule
            reasons.append(f"{rule.guard_name} says no")
        except GuardRefused as refusal:
            reasons.append(refusal.detail)
    raise GuardRefused(f"{event!r} was refused in {instance.state!r}: {'; '.join(reasons)}")


def missing(name: str) -> Guard:
    """Stands in for a guard whose code is not in this process."""

    def guard(*_: object) -> bool:
        raise CodeMissing(f"the guard {name} is asked, and this process does not have the machine's code")

    guard.__name__ = name
    return guard


async def ask(guard: Guard, instance: Instance, data: dict[str, Any], by: Principal, tx: Tx) -> bool:
    """What a guard says, handed what it takes."""
    known = {"by": by, "tx": tx}
    answer = guard(instance, data, **{name: known[name] for name in handed_in(guard)})
    return bool(await answer if inspect.isawaitable(answer) else answer)
