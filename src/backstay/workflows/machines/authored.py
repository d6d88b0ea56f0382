"""Machines written with python-statemachine, read into our definition. The package is the extra `machines`."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ...kernel.db import Tx
from ...kernel.errors import ConfigurationError
from ...kernel.principal import Principal
from .choice import ask
from .definition import Definition, Guard, State, Transition
from .models import Instance

if TYPE_CHECKING:
    from statemachine import StateMachine


def authored(
    machine: "type[StateMachine]",
    *,
    name: str | None = None,
    version: str = "1",
    timeouts: Mapping[str, tuple[timedelta, str]] | None = None,
) -> Definition:
    """The definition that a class of python-statemachine spells out, for `app.machine`.

    States, events, and the conditions (`cond`, `unless`) of transitions are taken over. A condition is a function of
    `(instance, data)`, and of `by` and `tx` if it has such parameters: a static method of the class, or given itself.
    `timeouts` gives a state, by its id, how long it may last and the event that it is then sent. `name` is the class's
    unless given.

    Raises:
        ConfigurationError: the class has what a table of legal steps cannot hold: nested or parallel states, history,
            transitions without an event, expressions of several conditions, actions.
    """
    lasting = timeouts or {}
    if unknown := [id for id in lasting if id not in {state.id for state in machine.states}]:
        raise _wrong(machine, f"`timeouts` names {', '.join(map(repr, unknown))}, which are not states of it")
    for state in machine.states:
        _check_state(machine, state)
    states = [State(state.id, state.final, *lasting.get(state.id, (None, None))) for state in machine.states]
    transitions = [made for state in machine.states for step in state.transitions for made in _steps(machine, step)]
    initial = next((state.id for state in machine.states if state.initial), "")
    return Definition(name or machine.__name__, states, transitions, initial, version)


def _steps(machine: "type[StateMachine]", step: Any) -> Iterator[Transition]:
    events = [event.id for event in step.events]
    if not events:
        raise _wrong(machine, f"a transition from {step.source.id!r} has no event")
    _refuse_actions(machine, f"transition {events[0]!r}", [*step.validators, *step.before, *step.on, *step.after])
    for event in events:
        yield Transition(event, step.source.id, step.target.id, _guard(machine, event, list(step.cond)))


def _guard(machine: "type[StateMachine]", event: str, conditions: list[Any]) -> Guard | None:
    """All the conditions of a transition as one guard."""
    asked = [(_function(machine, event, spec), spec.expected_value is not False) for spec in conditions]
    if not asked:
        return None
    if len(asked) == 1 and asked[0][1]:
        return asked[0][0]

    async def guard(instance: Instance, data: dict[str, Any], by: Principal, tx: Tx) -> bool:
        for condition, wanted in asked:
            if await ask(condition, instance, data, by, tx) is not wanted:
                return False
        return True

    guard.__name__ = " and ".join(map(str, conditions))
    return guard


def _function(machine: "type[StateMachine]", event: str, spec: Any) -> Guard:
    found = spec.func if callable(spec.func) else getattr(machine, str(spec.func), None)
    if not callable(found):
        raise _wrong(
            machine,
            f"the condition {spec.func!r} of {event!r} is no function of the class: name a static method of "
            "(instance, data), or give the function itself",
        )
    guard: Guard = found
    return guard


def _check_state(machine: "type[StateMachine]", state: Any) -> None:
    if state.parallel or state.states or state.is_history or state.history:
        raise _wrong(machine, f"the state {state.id!r} has states within or a history; an instance is in one state")
    _refuse_actions(machine, f"state {state.id!r}", [*state.enter, *state.exit])


def _refuse_actions(machine: "type[StateMachine]", where: str, specs: list[Any]) -> None:
    # A name that only convention looks for is no action unless the class has it.
    for spec in specs:
        if not spec.is_convention or hasattr(machine, str(spec.func)):
            raise _wrong(
                machine,
                f"the {where} has the action {spec.attr_name!r}, which would not run: act where you send the event, "
                "in the same transaction, or on the event `machine.moved`",
            )


def _wrong(machine: "type[StateMachine]", problem: str) -> ConfigurationError:
    return ConfigurationError(f"{machine.__name__}: {problem}")
