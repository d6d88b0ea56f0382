"""A state machine as its author declares it: states, transitions, guards, timeouts. Checked when it is made."""

import hashlib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, NoReturn

import orjson

from ...kernel.errors import ConfigurationError

Guard = Callable[..., bool | Awaitable[bool]]
MAX_NAME = 200
MAX_TIMEOUT = timedelta(days=36_500)
_HANDED_IN = ("by", "tx")  # what a guard gets beside instance and data, when it has a parameter of that name


@dataclass(frozen=True, slots=True)
class State:
    """A state. One that lasts for `timeout` is sent the event `on_timeout`; a `final` one is never left."""

    name: str
    final: bool = False
    timeout: timedelta | None = None
    on_timeout: str | None = None


@dataclass(frozen=True, slots=True)
class Transition:
    """`event` leads from each of `source` to `to`, if `guard(instance, data)` says True.

    A guard is a function, async or not, of the instance and the event's data; parameters called `by` (who sends) and
    `tx` (the open transaction) are handed in as well. Returning False refuses, raising GuardRefused gives the reason.
    It runs in the transaction and holds the instance's row: no outside calls in it.
    """

    event: str
    source: str | Sequence[str]
    to: str
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One legal step: a transition from one state."""

    source: str
    event: str
    to: str
    guard: Guard | None = None

    @property
    def guard_name(self) -> str | None:
        """How diagrams and the stored definition call the guard."""
        return None if self.guard is None else str(getattr(self.guard, "__name__", type(self.guard).__name__))


@dataclass(frozen=True)
class Definition:
    """A machine. States may be given by name only. An instance stays on the `version` it began with.

    Raises:
        ConfigurationError: says what is wrong with it.
    """

    name: str
    states: Sequence[State | str]
    transitions: Sequence[Transition]
    initial: str
    version: str = "1"

    def __post_init__(self) -> None:
        states = tuple(State(state) if isinstance(state, str) else state for state in self.states)
        object.__setattr__(self, "states", states)
        object.__setattr__(self, "transitions", tuple(self.transitions))
        self._check_names()
        self._check_states()
        self._check_rules()
        self._check_reach()

    @cached_property
    def by_name(self) -> Mapping[str, State]:
        """The states, in the order declared."""
        return {state.name: state for state in self.states if isinstance(state, State)}

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Every legal step, in the order declared."""
        return tuple(
            Rule(source, transition.event, transition.to, transition.guard)
            for transition in self.transitions
            for source in ([transition.source] if isinstance(transition.source, str) else transition.source)
        )

    @cached_property
    def events(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rule.event for rule in self.rules))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed and probably not meant."""
        backwards = [(rule.to, rule.source) for rule in self.rules]
        ending = _reached({name for name, state in self.by_name.items() if state.final}, backwards)
        lost = [name for name in self.by_name if name not in ending]
        return (f"from {_listed(lost)} no way leads to a final state",) if lost else ()

    def allowed(self, state: str) -> list[str]:
        """Events that may be sent in a state; their guards are asked only then."""
        return list(dict.fromkeys(rule.event for rule in self.rules if rule.source == state))

    def ways(self, state: str, event: str) -> list[Rule]:
        """Where an event may lead from a state, in the order in which the guards are asked."""
        return [rule for rule in self.rules if (rule.source, rule.event) == (state, event)]

    @cached_property
    def document(self) -> dict[str, Any]:
        """The definition as it is stored."""
        return {
            "name": self.name,
            "version": self.version,
            "initial": self.initial,
            "states": [
                {
                    "name": state.name,
                    "final": state.final,
                    "timeout": None if state.timeout is None else state.timeout.total_seconds(),
                    "on_timeout": state.on_timeout,
                }
                for state in self.by_name.values()
            ],
            "transitions": [
                {"event": rule.event, "from": rule.source, "to": rule.to, "guard": rule.guard_name}
                for rule in self.rules
            ],
        }

    @cached_property
    def fingerprint(self) -> bytes:
        """The same for definitions that mean the same: the order counts only where guards are asked one by one."""
        told = self.document | {
            "states": sorted(self.document["states"], key=lambda state: state["name"]),
            "transitions": sorted(self.document["transitions"], key=lambda rule: (rule["from"], rule["event"])),
        }
        return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).digest()

    @classmethod
    def stored(cls, document: Mapping[str, Any], guard: Callable[[str], Guard]) -> "Definition":
        """A definition read back; `guard` stands in for a guard, whose code is not stored."""
        return cls(
            document["name"],
            [
                State(
                    state["name"],
                    state["final"],
                    None if state["timeout"] is None else timedelta(seconds=state["timeout"]),
                    state["on_timeout"],
                )
                for state in document["states"]
            ],
            [
                Transition(
                    rule["event"], rule["from"], rule["to"], None if rule["guard"] is None else guard(rule["guard"])
                )
                for rule in document["transitions"]
            ],
            document["initial"],
            document["version"],
        )

    # -- checks -----------------------------------------------------------------------------------------------------

    def _wrong(self, problem: str) -> NoReturn:
        raise ConfigurationError(f"machine {self.name!r}: {problem}")

    def _check_names(self) -> None:
        states = [state.name for state in self.states if isinstance(state, State)]
        named = [("the name", self.name), ("the version", self.version)]
        named += [("a state", name) for name in states] + [("an event", rule.event) for rule in self.transitions]
        for what, name in named:
            if not (
                isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()
            ):
                self._wrong(f"{what} must be 1 to {MAX_NAME} printable characters, without blanks around, not {name!r}")
        if twice := _repeated(states):
            self._wrong(f"the state {twice!r} is declared twice")

    def _check_states(self) -> None:
        if not self.by_name:
            self._wrong("it has no states")
        self._known(self.initial, "the initial state")
        for name, state in self.by_name.items():
            if (state.timeout is None) != (state.on_timeout is None):
                self._wrong(f"the state {name!r} needs both `timeout` and `on_timeout`, or neither")
            if state.timeout is not None and not timedelta(0) < state.timeout <= MAX_TIMEOUT:
                self._wrong(f"the timeout of the state {name!r} must be positive and at most {MAX_TIMEOUT.days} days")
            if state.on_timeout is not None and not self.ways(name, state.on_timeout):
                self._wrong(f"the state {name!r} times out to {state.on_timeout!r}, and no transition of it says where")

    def _check_rules(self) -> None:
        settled: set[tuple[str, str]] = set()
        for transition in self.transitions:
            if not isinstance(transition.source, str) and not transition.source:
                self._wrong(f"the transition {transition.event!r} to {transition.to!r} has no source state")
            if isinstance(transition.source, str) or not (twice := _repeated(transition.source)):
                continue
            self._wrong(f"the transition {transition.event!r} names the source {twice!r} twice")
        for rule in self.rules:
            self._known(rule.source, f"the source of {rule.event!r}")
            self._known(rule.to, f"the target of {rule.event!r}")
            if self.by_name[rule.source].final:
                self._wrong(f"the state {rule.source!r} is final and {rule.event!r} would leave it")
            if (rule.source, rule.event) in settled:
                self._wrong(
                    f"{rule.event!r} in the state {rule.source!r} leads two ways: give the earlier transition a guard"
                )
            if rule.guard is None:
                settled.add((rule.source, rule.event))
            elif not callable(rule.guard):
                self._wrong(f"the guard of {rule.event!r} in the state {rule.source!r} is no function")

    def _check_reach(self) -> None:
        reached = _reached({self.initial}, [(rule.source, rule.to) for rule in self.rules])
        if lost := [name for name in self.by_name if name not in reached]:
            self._wrong(f"no way leads from {self.initial!r} to {_listed(lost)}")

    def _known(self, state: str, what: str) -> None:
        if state not in self.by_name:
            self._wrong(f"{what}, {state!r}, is not one of its states: {_listed(self.by_name)}")


def handed_in(guard: Guard) -> tuple[str, ...]:
    """Which of `by` and `tx` a guard takes."""
    try:
        parameters = inspect.signature(guard).parameters
    except ValueError:
        return ()  # a builtin that tells nothing of its parameters
    return tuple(name for name in _HANDED_IN if name in parameters)


def _reached(start: set[str], edges: Sequence[tuple[str, str]]) -> set[str]:
    """Every state that the edges lead to from `start`."""
    found, waiting = set(start), list(start)
    while waiting:
        here = waiting.pop()
        for there in {to for source, to in edges if source == here} - found:
            found.add(there)
            waiting.append(there)
    return found


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
