"""The decision: which targets may answer a request, in which order, and why. Pure; it knows no clock and no network."""

import hashlib
import math
import random as chance
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from ..errors import GatewayError
from . import complexity
from .complexity import Complexity
from .facts import Facts
from .route import Range, Route, RouteTarget, When

# By latency, one request in so many goes to a target that has not been measured lately, so that it is.
EXPLORE = 20
Random = Callable[[], float]


class NoTargetServes(GatewayError):
    code, status, title = "no_target_serves", 422, "No target of the route serves this request"


class Priced(Protocol):
    """What tokens cost; every price of the gateway is one."""

    def bound(self, input_tokens: int, output_tokens: int) -> Decimal:
        """The most that so many tokens can cost, in USD."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """What is known at this moment, by target (`provider:model`); what is missing is not known.

    `latencies`: the median of the last minutes in seconds. `open`: targets whose breaker is open. `pinned`: the target
    that this conversation had last.
    """

    prices: Mapping[str, Priced] = field(default_factory=dict)
    latencies: Mapping[str, float] = field(default_factory=dict)
    open: frozenset[str] = frozenset()
    pinned: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A target and why it stands where it does, or why it is left out."""

    target: RouteTarget
    reason: str

    @property
    def model(self) -> str:
        return self.target.model


@dataclass(frozen=True, slots=True)
class Plan:
    """Targets in the order in which they are tried. `conversation` is the digest that a sticky route goes by."""

    route: Route
    targets: tuple[Choice, ...]
    why: str
    skipped: tuple[Choice, ...] = ()
    complexity: Complexity | None = None
    conversation: str | None = None

    def required(self) -> "Plan":
        """The plan, if it has a target.

        Raises:
            NoTargetServes: none serves the request; the message says why not (422).
        """
        if not self.targets:
            reasons = "; ".join(f"{choice.model} {choice.reason}" for choice in self.skipped)
            raise NoTargetServes(f"no target of the route {self.route.name} serves this request: {reasons}")
        return self

    def larger_than(self, model: str) -> tuple[Choice, ...]:
        """The targets that may hold what was too long for `model`, in order; one of unknown size may."""
        window = next((choice.target.context_window for choice in self.targets if choice.model == model), None)
        return tuple(
            choice
            for choice in self.targets
            if choice.model != model
            and (window is None or choice.target.context_window is None or choice.target.context_window > window)
        )

    def explained(self) -> dict[str, Any]:
        """The plan as JSON, for the audit and for people."""
        return {
            "route": self.route.name,
            "why": self.why,
            "targets": [{"model": choice.model, "reason": choice.reason} for choice in self.targets],
            "skipped": [{"model": choice.model, "reason": choice.reason} for choice in self.skipped],
            "complexity": None if self.complexity is None else self.complexity.explained(),
            "conversation": self.conversation,
        }


def direct(model: str) -> Plan:
    """The plan for a plain `provider:model`."""
    route = Route.direct(model)
    return Plan(route, (Choice(route.targets[0], "asked for by name"),), "a model was asked for by name, no route")


def as_listed(route: Route, is_open: Callable[[str], bool]) -> Plan:
    """The plan of a plain route, for which nothing need be known of the request: what `decide` would give, without a
    look at its complexity."""
    choices = _as_listed(route, list(route.targets))
    resting = frozenset(choice.model for choice in choices if is_open(choice.model))
    targets = _open_last(choices, State(open=resting)) if resting else choices
    return Plan(route, tuple(targets), f"route {route.name}, ordered: all of {len(route.targets)} targets may serve")


def decide(route: Route, facts: Facts, state: State, random: Random = chance.random) -> Plan:
    """The plan for a request on a route.

    Every target whose conditions hold is in it once. The strategy orders them; a conversation's own target comes first
    on a sticky route; targets with an open breaker come last. The same facts, state and random numbers give the same
    plan.
    """
    judged = complexity.measured(facts)
    serving, skipped = _sifted(route, facts, judged)
    ordered = _ORDERS[route.strategy](route, serving, facts, state, random)
    if route.sticky:
        ordered = _pinned_first(ordered, state)
    targets = _open_last(ordered, state)
    why = f"route {route.name}, {route.strategy}: {len(targets)} of {len(route.targets)} targets may serve"
    conversation = facts.conversation if route.sticky else None
    return Plan(route, tuple(targets), why, tuple(skipped), judged, conversation)


def _sifted(route: Route, facts: Facts, judged: Complexity) -> tuple[list[RouteTarget], list[Choice]]:
    serving, skipped = [], []
    for target in route.targets:
        unmet = next(_unmet(target.when, facts, judged), None) if target.when else None
        if unmet is None:
            serving.append(target)
        else:
            skipped.append(Choice(target, unmet))
    return serving, skipped


def _unmet(when: When, facts: Facts, judged: Complexity) -> Iterator[str]:
    """What speaks against a target, if anything does."""
    request = facts.request
    for name, wanted, given in (
        ("task", when.task, facts.task),
        ("feature", when.feature, facts.feature),
        ("user", when.user, facts.user),
    ):
        if wanted is not None and given not in wanted:
            yield f"serves the {name} {' or '.join(wanted)}, not {given or 'none'}"
    if when.complexity is not None and not _is_of(when.complexity, judged):
        of = f"the scores {when.complexity}" if isinstance(when.complexity, Range) else " or ".join(when.complexity)
        yield f"serves {of}; this request is {judged.level} ({judged.score})"
    for name, needed, has in (
        ("tools", when.tools, request.tools > 0),
        ("media", when.media, request.media > 0),
        ("reasoning", when.reasoning, request.reasoning),
    ):
        if needed is not None and needed != has:
            yield f"serves requests {'with' if needed else 'without'} {name}"
    if when.input_tokens is not None and not when.input_tokens.holds(request.input_bound):
        yield f"serves {when.input_tokens} input tokens; this request may have {request.input_bound}"


def _is_of(wanted: Sequence[str] | Range, judged: Complexity) -> bool:
    return wanted.holds(judged.score) if isinstance(wanted, Range) else judged.level in wanted


def _as_listed(route: Route, targets: list[RouteTarget], *_: Any) -> list[Choice]:
    places = {target.model: place for place, target in enumerate(route.targets, 1)}
    return [Choice(target, f"listed {_nth(places[target.model])}") for target in targets]


def _by_weight(route: Route, targets: list[RouteTarget], facts: Facts, _: State, random: Random) -> list[Choice]:
    """Drawn without putting back (Efraimidis and Spirakis, 2006). On a sticky route the conversation draws, for each
    target on its own: where the others stand in the list, and whether they are there, moves nothing."""
    conversation = facts.conversation if route.sticky else None
    drawn = "by the conversation" if conversation else "at random"
    total = sum(target.share for target in targets)
    places = []
    for target in targets:
        number = _share_of(conversation, target.model) if conversation else 1.0 - random()
        places.append(-math.log(number) / target.share if target.share else math.inf)
    order = sorted(range(len(targets)), key=places.__getitem__)
    return [Choice(targets[at], f"weight {targets[at].share:g} of {total:g}, drawn {drawn}") for at in order]


def _by_cost(_: Route, targets: list[RouteTarget], facts: Facts, state: State, __: Random) -> list[Choice]:
    known: list[tuple[Decimal, RouteTarget]] = []
    unknown = []
    for target in targets:
        if (price := state.prices.get(target.model)) is None:
            unknown.append(Choice(target, "no price is known"))
        else:
            known.append((price.bound(facts.input_estimate, facts.output_estimate), target))
    known.sort(key=lambda one: one[0])
    return [Choice(target, f"expected to cost {cost:f} USD") for cost, target in known] + unknown


def _by_latency(_: Route, targets: list[RouteTarget], __: Facts, state: State, random: Random) -> list[Choice]:
    known = [(state.latencies[target.model], target) for target in targets if target.model in state.latencies]
    unknown = [Choice(target, "not measured lately") for target in targets if target.model not in state.latencies]
    known.sort(key=lambda one: one[0])
    measured = [Choice(target, f"median {seconds:.3f} s") for seconds, target in known]
    if measured and unknown and random() * EXPLORE < 1:
        chosen = int(random() * len(unknown))
        explored = replace(unknown.pop(chosen), reason="not measured lately: this request does")
        return [explored, *measured, *unknown]
    return measured + unknown


_ORDERS: dict[str, Callable[[Route, list[RouteTarget], Facts, State, Random], list[Choice]]] = {
    "ordered": _as_listed,
    "weighted": _by_weight,
    "cost": _by_cost,
    "latency": _by_latency,
}


def _pinned_first(choices: list[Choice], state: State) -> list[Choice]:
    """The conversation's own target first, unless its weight says that it is being emptied."""
    pinned = [choice for choice in choices if choice.model == state.pinned and choice.target.share > 0]
    if not pinned:
        return choices
    rest = [choice for choice in choices if choice.model != state.pinned]
    return [replace(pinned[0], reason="the conversation is there already"), *rest]


def _open_last(choices: list[Choice], state: State) -> list[Choice]:
    healthy = [choice for choice in choices if choice.model not in state.open]
    broken = [choice for choice in choices if choice.model in state.open]
    return healthy + [replace(choice, reason=f"its breaker is open; else {choice.reason}") for choice in broken]


def _share_of(conversation: str, model: str) -> float:
    """A number above 0 and at most 1 that only these two decide."""
    digest = hashlib.sha256(f"{conversation}\0{model}".encode(errors="surrogatepass")).digest()
    return (int.from_bytes(digest[:7], "big") + 1) / 2.0**56


def _nth(place: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(place, f"number {place}")
