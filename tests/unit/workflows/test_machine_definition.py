"""What a declared machine must be, its stored form and its diagram; no database."""

import random
import re
from datetime import timedelta
from typing import Any

import pytest

from backstay.kernel.errors import ConfigurationError
from backstay.workflows.machines import Definition, State, Transition, diagram

HOUR = timedelta(hours=1)


def yes(instance: object, data: object) -> bool:
    return True


def machine(**changes: Any) -> Definition:
    """A door, with what a test changes."""
    given: dict[str, Any] = {
        "name": "door",
        "initial": "open",
        "states": ["open", State("shut", timeout=HOUR, on_timeout="rust"), State("gone", final=True)],
        "transitions": [
            Transition("close", "open", "shut", guard=yes),
            Transition("open", "shut", "open"),
            Transition("rust", ["open", "shut"], "gone"),
        ],
    }
    return Definition(**{**given, **changes})


def with_states(*states: State | str) -> dict[str, Any]:
    return {"states": [*machine().states, *states]}


def with_transitions(*transitions: Transition) -> dict[str, Any]:
    return {"transitions": [*machine().transitions, *transitions]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"initial": "ajar"}, "the initial state, 'ajar', is not one of its states: 'open', 'shut', 'gone'"),
        ({"states": [], "transitions": []}, "it has no states"),
        (with_states("open"), "the state 'open' is declared twice"),
        (with_states("attic"), "no way leads from 'open' to 'attic'"),
        (with_transitions(Transition("lift", "ajar", "open")), "the source of 'lift', 'ajar', is not one of"),
        (with_transitions(Transition("lift", "open", "ajar")), "the target of 'lift', 'ajar', is not one of"),
        (with_transitions(Transition("lift", [], "open")), "'lift' to 'open' has no source"),
        (with_transitions(Transition("lift", ["open", "open"], "shut")), "names the source 'open' twice"),
        (with_transitions(Transition("open", "shut", "gone")), "'open' in the state 'shut' leads two ways"),
        (with_transitions(Transition("open", "shut", "gone", guard=yes)), "'open' in the state 'shut' leads two ways"),
        (with_transitions(Transition("mend", "gone", "open")), "the state 'gone' is final and 'mend' would leave it"),
        (with_transitions(Transition("lift", "open", "shut", guard="yes")), "is no function"),  # type: ignore[arg-type]
        (with_states(State("x", timeout=HOUR)), "'x' needs both `timeout` and `on_timeout`"),
        (with_states(State("x", on_timeout="rust")), "'x' needs both `timeout` and `on_timeout`"),
        (with_states(State("x", timeout=timedelta(0), on_timeout="rust")), "the timeout of the state 'x' must be"),
        (with_states(State("x", timeout=timedelta.max, on_timeout="rust")), "the timeout of the state 'x' must be"),
        (with_states(State("x", timeout=HOUR, on_timeout="rust")), "no transition of it says where"),
        ({"name": ""}, "the name must be"),
        ({"name": "x" * 201}, "the name must be"),
        ({"version": " 1"}, "the version must be"),
        ({"version": 1}, "the version must be"),
        (with_states("a\nb"), "a state must be"),
        (with_states("a\0b"), "a state must be"),
        (with_states("\ud800"), "a state must be"),
        (with_transitions(Transition("", "open", "shut")), "an event must be"),
    ],
)
def test_a_mistake_is_told_when_the_machine_is_declared(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        machine(**changes)
    assert problem in refused.value.detail
    assert refused.value.detail.startswith("machine ")


def test_guards_make_several_ways_possible_and_the_last_needs_none() -> None:
    ways = machine(
        transitions=[
            Transition("close", "open", "shut", guard=yes),
            Transition("close", "open", "gone", guard=yes),
            Transition("close", "open", "open"),
            Transition("rust", "shut", "gone"),
        ]
    ).ways("open", "close")
    assert [rule.to for rule in ways] == ["shut", "gone", "open"]


def test_no_way_to_an_end_is_a_warning_and_no_mistake() -> None:
    assert machine().warnings == ()
    trap = Transition("lock", "open", "locked")
    (warning,) = machine(**with_states("locked"), **with_transitions(trap)).warnings
    assert warning == "from 'locked' no way leads to a final state"
    endless = Definition(
        "lamp", ["on", "off"], [Transition("flip", "on", "off"), Transition("flip", "off", "on")], "on"
    )
    assert len(endless.warnings) == 1


def test_what_a_state_allows() -> None:
    door = machine()
    assert [door.allowed(state) for state in door.by_name] == [["close", "rust"], ["open", "rust"], []]
    assert door.events == ("close", "open", "rust")


def test_the_stored_form_reads_back_as_the_same_definition() -> None:
    door = machine()
    names: list[str] = []
    again = Definition.stored(door.document, lambda name: names.append(name) or yes)  # type: ignore[func-returns-value]
    assert names == ["yes"]
    assert (again.document, again.fingerprint) == (door.document, door.fingerprint)


def test_the_fingerprint_is_the_meaning() -> None:
    door = machine()
    shuffled = list(door.transitions)
    random.Random(1).shuffle(shuffled)
    assert machine(states=door.states[::-1], transitions=shuffled).fingerprint == door.fingerprint
    for changes in (
        {"version": "2"},
        {"initial": "shut"},
        with_transitions(Transition("slam", "open", "shut")),
        {"states": [*door.states[:1], State("shut", timeout=2 * HOUR, on_timeout="rust"), door.states[2]]},
        {"transitions": [Transition("close", "open", "shut"), *door.transitions[1:]]},
    ):
        assert machine(**changes).fingerprint != door.fingerprint, changes
    guarded = [Transition("close", "open", to, guard=yes) for to in ("shut", "gone")]
    rest = door.transitions[1:]
    assert (
        machine(transitions=[*guarded, *rest]).fingerprint != machine(transitions=[*guarded[::-1], *rest]).fingerprint
    ), "the order in which guards are asked is a meaning"


def test_the_diagram() -> None:
    assert diagram(machine()) == (
        "stateDiagram-v2\n"
        '    state "open" as s0\n'
        '    state "shut" as s1\n'
        '    state "gone" as s2\n'
        "    [*] --> s0\n"
        "    s0 --> s1 : close #91;yes#93;\n"
        "    s1 --> s0 : open\n"
        "    s0 --> s2 : rust\n"
        "    s1 --> s2 : rust after 1 h\n"
        "    s2 --> [*]\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        '"] --> [*]',
        "end note",
        "a --> b : c",
        "%% gone",
        "<script>alert(1)</script>",
        "x; s0 --> s9",
        "#35;",
        "{state}",
        "é",
    ],
)
def test_no_name_gets_out_of_its_label(name: str) -> None:
    hostile = Definition("m", [name, State("z", final=True)], [Transition(name, name, "z")], name)
    lines = diagram(hostile).splitlines()
    assert len(lines) == 6
    label = re.fullmatch(r'    state "((?:[\w .,()\'/-]|#\d+;)*)" as s0', lines[1])
    assert label
    assert re.sub(r"#(\d+);", lambda code: chr(int(code[1])), label[1]) == name
    assert lines[4] == f"    s0 --> s1 : {label[1]}"


@pytest.mark.parametrize(
    ("timeout", "told"),
    [
        (timedelta(days=1, hours=12, minutes=3), "1 d 12 h"),
        (timedelta(minutes=90), "1 h 30 min"),
        (timedelta(seconds=1), "1 s"),
        (timedelta(milliseconds=5), "5 ms"),
    ],
)
def test_a_timeout_reads_well(timeout: timedelta, told: str) -> None:
    states = ["open", State("shut", timeout=timeout, on_timeout="rust"), State("gone", final=True)]
    assert f": rust after {told}\n" in diagram(machine(states=states))
