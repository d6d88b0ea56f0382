"""Machines written with python-statemachine."""

from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("statemachine", reason="python-statemachine is the extra `machines`")

from statemachine import State, StateMachine

from backstay.kernel.errors import ConfigurationError
from backstay.workflows.machines import State as Ours
from backstay.workflows.machines import Transition, authored


def is_small(instance: Any, data: dict[str, Any]) -> bool:
    return data.get("amount", 0) <= 100


class Refund(StateMachine):
    asked = State(initial=True)
    escalated = State()
    paid = State(final=True)
    denied = State(final=True)

    approve = asked.to(paid, cond=is_small) | asked.to(escalated) | escalated.to(paid, cond="has_reason", unless="late")
    deny = asked.to(denied) | escalated.to(denied)

    @staticmethod
    async def has_reason(instance: Any, data: dict[str, Any]) -> bool:
        return bool(data.get("reason"))

    @staticmethod
    def late(instance: Any, data: dict[str, Any], tx: Any) -> bool:
        return tx == "late"


def test_states_events_and_timeouts_are_taken_over():
    made = authored(Refund, version="2", timeouts={"asked": (timedelta(days=3), "deny")})
    assert (made.name, made.version, made.initial) == ("Refund", "2", "asked")
    assert list(made.by_name.values()) == [
        Ours("asked", timeout=timedelta(days=3), on_timeout="deny"),
        Ours("escalated"),
        Ours("paid", final=True),
        Ours("denied", final=True),
    ]
    assert made.transitions[:2] == (
        Transition("approve", "asked", "paid", is_small),
        Transition("approve", "asked", "escalated"),
    )
    assert [(rule.source, rule.event, rule.to, rule.guard_name) for rule in made.rules] == [
        ("asked", "approve", "paid", "is_small"),
        ("asked", "approve", "escalated", None),
        ("asked", "deny", "denied", None),
        ("escalated", "approve", "paid", "has_reason and !late"),
        ("escalated", "deny", "denied", None),
    ]


@pytest.mark.parametrize(
    ("data", "tx", "permitted"), [({"reason": "x"}, None, True), ({}, None, False), ({"reason": "x"}, "late", False)]
)
async def test_every_condition_of_a_transition_must_hold(data, tx, permitted):
    guard = authored(Refund).ways("escalated", "approve")[0].guard
    assert await guard(None, data, by=None, tx=tx) is permitted


def _with_action():
    class Acts(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b)

        def on_enter_b(self):
            pass

    return Acts


def _with_named_action():
    class Acts(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, on="pay")

        def pay(self):
            pass

    return Acts


def _with_expression():
    class Expresses(StateMachine):
        a = State(initial=True)
        b = State(final=True)
        go = a.to(b, cond="x and not y")

        x = y = staticmethod(lambda instance, data: True)

    return Expresses


def _with_states_within():
    class Nested(StateMachine):
        class a(State.Compound):
            inner = State(initial=True)

        b = State(final=True)
        go = a.to(b)

    return Nested


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_with_action, "Acts: the state 'b' has the action 'on_enter_b', which would not run"),
        (_with_named_action, "Acts: the transition 'go' has the action 'pay', which would not run"),
        (_with_expression, "Expresses: the condition 'x and not y' of 'go' is no function of the class"),
        (_with_states_within, "Nested: the state 'a' has states within"),
    ],
)
def test_what_a_table_of_steps_cannot_hold_is_refused(make, told):
    with pytest.raises(ConfigurationError, match=told):
        authored(make())


def test_a_timeout_of_an_unknown_state_is_refused():
    with pytest.raises(ConfigurationError, match="'away', which are not states"):
        authored(Refund, timeouts={"away": (timedelta(days=1), "deny")})
