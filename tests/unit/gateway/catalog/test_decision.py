"""Which targets may answer, in which order, and what the plan says about it."""

import random
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.catalog import Facts, NoTargetServes, Range, Rates, Route, RouteTarget, State, When, decide
from backstay.gateway.catalog.decision import EXPLORE, direct
from backstay.gateway.dialogue import Request

TENANT = UUID(int=1)


def facts(conversation: str | None = None, **known) -> Facts:
    """A request of 400 bytes without anything special, except for what is said."""
    own = {name: known.pop(name) for name in ("feature", "user", "task", "structured", "code") if name in known}
    request = Request(**{"model": "smart", "input_bound": 400, "turns": 1, **known})
    return Facts(request, **{"feature": "default", "conversation": conversation, **own})


def route(*targets, **options) -> Route:
    return Route(name="smart", targets=list(targets), **options)


def order(route: Route, facts: Facts, state: State | None = None, draw=random.random) -> list[str]:
    return [choice.model for choice in decide(route, facts, state or State(), draw).targets]


def rates(price: str) -> Rates:
    return Rates(input=Decimal(price), output=Decimal(price))


class TestConditions:
    """One target with the condition, one without: the other always serves."""

    @pytest.mark.parametrize(
        ("when", "served", "left_out"),
        [
            ({"task": "summary"}, {"task": "summary"}, {"task": "chat"}),
            ({"task": ["summary", "chat"]}, {"task": "chat"}, {}),
            ({"feature": "search"}, {"feature": "search"}, {}),
            ({"user": "ada"}, {"user": "ada"}, {"user": "eve"}),
            ({"tools": True}, {"tools": 1}, {}),
            ({"tools": False}, {}, {"tools": 1}),
            ({"media": True}, {"media": 2}, {}),
            ({"media": False}, {}, {"media": 1}),
            ({"reasoning": True}, {"reasoning": True}, {}),
            ({"reasoning": False}, {}, {"reasoning": True}),
            ({"input_tokens": {"max": 400}}, {"input_bound": 400}, {"input_bound": 401}),
            ({"input_tokens": {"min": 400}}, {"input_bound": 400}, {"input_bound": 399}),
            ({"complexity": "simple"}, {}, {"reasoning": True}),
            ({"complexity": ["moderate", "complex"]}, {"reasoning": True}, {}),
            ({"complexity": "complex"}, {"reasoning": True, "tools": 4}, {"reasoning": True}),
            ({"complexity": {"min": 30, "max": 30}}, {"reasoning": True}, {"reasoning": True, "tools": 1}),
            ({"tools": True, "task": "chat"}, {"tools": 1, "task": "chat"}, {"tools": 1}),
        ],
    )
    def test_a_target_serves_what_its_condition_says(self, when, served, left_out) -> None:
        made = route({"model": "a:m", "when": when}, "b:m")
        assert order(made, facts(**served)) == ["a:m", "b:m"]
        plan = decide(made, facts(**left_out), State())
        assert [choice.model for choice in plan.targets] == ["b:m"]
        (skipped,) = plan.skipped
        assert skipped.model == "a:m"
        assert skipped.reason.startswith("serves ")

    def test_a_request_that_no_target_serves_says_why(self) -> None:
        made = route({"model": "a:m", "when": {"tools": True}}, {"model": "b:m", "when": {"task": "chat"}})
        plan = decide(made, facts(), State())
        assert plan.targets == ()
        with pytest.raises(NoTargetServes) as caught:
            plan.required()
        assert "a:m serves requests with tools" in caught.value.detail
        assert "b:m serves the task chat, not none" in caught.value.detail


class TestOrdered:
    def test_targets_come_as_they_are_listed(self) -> None:
        assert order(route("b:m", "a:m", "c:m"), facts()) == ["b:m", "a:m", "c:m"]

    def test_one_with_an_open_breaker_comes_last_and_says_so(self) -> None:
        plan = decide(route("a:m", "b:m", "c:m"), facts(), State(open=frozenset({"a:m"})))
        assert [choice.model for choice in plan.targets] == ["b:m", "c:m", "a:m"]
        assert "breaker is open" in plan.targets[-1].reason


class TestWeighted:
    ROUTE = route({"model": "a:m", "weight": 7}, {"model": "b:m", "weight": 2}, {"model": "c:m"}, strategy="weighted")

    @pytest.mark.parametrize("sticky", [False, True])
    def test_each_comes_first_as_often_as_its_weight_says(self, sticky: bool) -> None:
        made, draw, count = self.ROUTE.model_copy(update={"sticky": sticky}), random.Random(7).random, 5_000
        firsts = [order(made, facts(f"conversation {number}"), draw=draw)[0] for number in range(count)]
        for model, share in {"a:m": 0.7, "b:m": 0.2, "c:m": 0.1}.items():
            deviation = (share * (1 - share) / count) ** 0.5
            assert abs(firsts.count(model) / count - share) < 4 * deviation, model

    def test_when_the_first_is_out_the_others_share_by_their_weights(self) -> None:
        draw, count = random.Random(8).random, 5_000
        state = State(open=frozenset({"a:m"}))
        firsts = [order(self.ROUTE, facts(), state, draw)[0] for _ in range(count)]
        assert abs(firsts.count("b:m") / count - 2 / 3) < 0.03

    def test_weight_zero_is_the_last_resort(self) -> None:
        made = route({"model": "a:m", "weight": 0}, {"model": "b:m", "weight": 1}, strategy="weighted")
        assert {tuple(order(made, facts())) for _ in range(200)} == {("b:m", "a:m")}

    def test_the_same_numbers_make_the_same_plan(self) -> None:
        plans = [decide(self.ROUTE, facts(), State(), random.Random(3).random) for _ in range(2)]
        assert plans[0] == plans[1]

    def test_a_random_zero_is_no_trouble(self) -> None:
        assert sorted(order(self.ROUTE, facts(), draw=lambda: 0.0)) == ["a:m", "b:m", "c:m"]


class TestCost:
    PRICES = {"a:m": rates("5"), "b:m": rates("0"), "c:m": rates("1")}

    def test_the_cheapest_comes_first_and_the_unknown_last(self) -> None:
        plan = decide(route("d:m", "a:m", "b:m", "c:m", strategy="cost"), facts(), State(prices=self.PRICES))
        assert [choice.model for choice in plan.targets] == ["b:m", "c:m", "a:m", "d:m"]
        assert plan.targets[-1].reason == "no price is known"
        assert "USD" in plan.targets[0].reason

    def test_what_is_expected_to_be_written_counts(self) -> None:
        talker = Rates(input=Decimal(0), output=Decimal(10))
        reader = Rates(input=Decimal(4), output=Decimal(0))
        made, state = route("a:m", "b:m", strategy="cost"), State(prices={"a:m": talker, "b:m": reader})
        assert order(made, facts(input_bound=4_000), state) == ["b:m", "a:m"]
        assert order(made, facts(input_bound=4_000, max_tokens=1), state) == ["a:m", "b:m"]


class TestLatency:
    ROUTE = route("a:m", "b:m", "c:m", strategy="latency")

    def test_the_quickest_comes_first_and_those_not_measured_last(self) -> None:
        state = State(latencies={"b:m": 0.9, "c:m": 0.2})
        assert order(self.ROUTE, facts(), state, lambda: 0.99) == ["c:m", "b:m", "a:m"]

    def test_now_and_then_one_that_is_not_measured_goes_first(self) -> None:
        state, draw = State(latencies={"b:m": 0.9, "c:m": 0.2}), random.Random(9).random
        firsts = [order(self.ROUTE, facts(), state, draw)[0] for _ in range(4_000)]
        assert abs(firsts.count("a:m") / 4_000 - 1 / EXPLORE) < 0.015
        assert "b:m" not in firsts

    def test_without_any_measurement_the_list_decides(self) -> None:
        assert order(self.ROUTE, facts()) == ["a:m", "b:m", "c:m"]


class TestSticky:
    @pytest.mark.parametrize("strategy", ["ordered", "cost", "latency", "weighted"])
    def test_a_conversation_stays_where_it_was(self, strategy: str) -> None:
        made = route("a:m", "b:m", "c:m", strategy=strategy, sticky=True)
        plan = decide(made, facts("talk"), State(pinned="c:m"))
        assert plan.targets[0].model == "c:m"
        assert plan.targets[0].reason == "the conversation is there already"
        assert plan.conversation == "talk"

    def test_it_leaves_a_target_with_an_open_breaker(self) -> None:
        made = route("a:m", "b:m", sticky=True)
        assert order(made, facts("talk"), State(pinned="b:m", open=frozenset({"b:m"}))) == ["a:m", "b:m"]

    def test_it_leaves_a_target_that_may_not_serve_it(self) -> None:
        made = route("a:m", {"model": "b:m", "when": {"tools": True}}, sticky=True)
        assert order(made, facts("talk"), State(pinned="b:m")) == ["a:m"]

    def test_it_leaves_a_target_that_is_being_emptied(self) -> None:
        made = route("a:m", {"model": "b:m", "weight": 0}, strategy="weighted", sticky=True)
        assert order(made, facts("talk"), State(pinned="b:m")) == ["a:m", "b:m"]

    def test_without_sticky_the_pin_means_nothing(self) -> None:
        assert order(route("a:m", "b:m"), facts("talk"), State(pinned="b:m")) == ["a:m", "b:m"]

    def test_by_weight_no_chance_is_involved(self) -> None:
        made = route("a:m", "b:m", "c:m", strategy="weighted", sticky=True)
        assert len({tuple(order(made, facts("talk"))) for _ in range(50)}) == 1


class TestContextLength:
    PLAN = decide(
        route(
            {"model": "a:m", "context_window": 8_000},
            {"model": "b:m", "context_window": 4_000},
            "c:m",
            {"model": "d:m", "context_window": 200_000},
        ),
        facts(),
        State(),
    )

    def test_a_larger_target_is_tried_next_and_one_of_unknown_size_may_be(self) -> None:
        assert [choice.model for choice in self.PLAN.larger_than("a:m")] == ["c:m", "d:m"]
        assert [choice.model for choice in self.PLAN.larger_than("b:m")] == ["a:m", "c:m", "d:m"]
        assert [choice.model for choice in self.PLAN.larger_than("c:m")] == ["a:m", "b:m", "d:m"]
        assert self.PLAN.larger_than("d:m") == tuple(c for c in self.PLAN.targets if c.model == "c:m")


def test_a_model_by_its_name_is_a_route_of_one_target() -> None:
    plan = direct("openai:gpt-5")
    assert [choice.model for choice in plan.required().targets] == ["openai:gpt-5"]
    assert plan.route.is_direct
    assert (plan.route.mode, plan.route.retries, plan.route.cache) == ("live", None, None)


MODELS = [f"{letter}:m" for letter in "abcdefgh"]
whens = st.none() | st.builds(
    When,
    tools=st.none() | st.booleans(),
    reasoning=st.none() | st.booleans(),
    task=st.none() | st.sampled_from([("chat",), ("chat", "summary")]),
    complexity=st.none() | st.sampled_from([("simple",), ("moderate", "complex"), Range(min=20)]),
    input_tokens=st.none() | st.builds(Range, max=st.sampled_from([100, 10_000])),
)
requests = st.builds(
    facts,
    st.none() | st.text(min_size=1, max_size=8),
    tools=st.integers(0, 6),
    media=st.integers(0, 2),
    turns=st.integers(0, 30),
    reasoning=st.booleans(),
    input_bound=st.integers(0, 200_000),
    task=st.none() | st.sampled_from(["chat", "summary", "other"]),
)
states = st.builds(
    State,
    prices=st.dictionaries(st.sampled_from(MODELS), st.sampled_from([rates("0"), rates("1"), rates("2.5")])),
    latencies=st.dictionaries(st.sampled_from(MODELS), st.floats(0.001, 100)),
    open=st.frozensets(st.sampled_from(MODELS)),
    pinned=st.none() | st.sampled_from(MODELS),
)


@st.composite
def made_routes(draw) -> Route:
    strategy = draw(st.sampled_from(["ordered", "weighted", "cost", "latency"]))
    models = draw(st.lists(st.sampled_from(MODELS), min_size=1, unique=True))
    weights = st.sampled_from([None, 0.0, 0.5, 3.0]) if strategy == "weighted" else st.none()
    targets = [RouteTarget(model=model, weight=draw(weights), when=draw(whens)) for model in models]
    if strategy == "weighted" and not any(target.share for target in targets):
        targets[0] = targets[0].model_copy(update={"weight": 1.0})
    return Route(name="smart", targets=targets, strategy=strategy, sticky=draw(st.booleans()))


@given(made_routes(), requests, states, st.integers())
def test_every_target_is_in_the_plan_once_or_left_out_with_a_reason(made, asked, state, seed) -> None:
    plan = decide(made, asked, state, random.Random(seed).random)
    told = [choice.model for choice in (*plan.targets, *plan.skipped)]
    assert sorted(told) == sorted(target.model for target in made.targets)
    assert all(choice.reason for choice in (*plan.targets, *plan.skipped))
    unconditional = {target.model for target in made.targets if target.when is None}
    assert unconditional <= {choice.model for choice in plan.targets}


@given(made_routes(), requests, states, st.integers())
def test_no_target_with_an_open_breaker_comes_before_a_healthy_one(made, asked, state, seed) -> None:
    opens = [choice.model in state.open for choice in decide(made, asked, state, random.Random(seed).random).targets]
    assert opens == sorted(opens)


@given(made_routes(), requests, states, st.integers())
def test_a_plan_can_be_written_down_and_is_the_same_again(made, asked, state, seed) -> None:
    first, again = (decide(made, asked, state, random.Random(seed).random).explained() for _ in range(2))
    assert first == again


distinct = st.lists(st.sampled_from(MODELS), min_size=2, unique=True)


@given(distinct.flatmap(lambda m: st.tuples(st.just(m), st.permutations(m))), st.text(min_size=1), st.data())
def test_a_conversations_target_does_not_depend_on_where_the_others_stand(lists, conversation, data) -> None:
    one, other = (route(*models, strategy="weighted", sticky=True) for models in lists)
    assert order(one, facts(conversation)) == order(other, facts(conversation))
    gone = data.draw(st.sampled_from(lists[0][1:]))
    first = order(one, facts(conversation))[0]
    if gone != first:
        fewer = [model for model in lists[0] if model != gone]
        assert order(route(*fewer, strategy="weighted", sticky=True), facts(conversation))[0] == first
