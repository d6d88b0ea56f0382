"""What a route may say, in a program, over the API and in the operator's file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from backstay.app import App
from backstay.gateway.catalog import Deadlines, Route, RouteDefinition, RouteTarget, When
from backstay.gateway.catalog.file import operators_routes
from backstay.gateway.models import Timeouts
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.settings import Settings


def test_a_target_may_be_its_name_alone() -> None:
    made = Route(name="smart", targets=["a:m", {"model": "b:m", "when": {"task": "chat"}}])
    assert made.targets == (RouteTarget(model="a:m"), RouteTarget(model="b:m", when=When(task=("chat",))))


def test_what_is_stored_is_what_was_given() -> None:
    given = Route(
        name="smart",
        targets=["a:m", RouteTarget(model="b:m?price=0.1", weight=0, context_window=8_000)],
        strategy="weighted",
        sticky=True,
        mode="guarded",
        deadlines=Deadlines(idle=3),
        retries=0,
        hedge="p95",
        cache={"ttl": 60, "semantic": 0.95},
        fallback_on_filter=True,
        budget="20 USD/day",
    )
    assert Route.of("smart", RouteDefinition(**given.definition())) == given
    assert "mode" not in Route(name="plain", targets=["a:m"]).definition()


def test_deadlines_go_over_the_gateways_own() -> None:
    own = Timeouts(connect=1, first_token=2, idle=3, total=4)
    assert Deadlines().over(own) == own
    assert Deadlines(connect=9, total=8).over(own) == Timeouts(connect=9, first_token=2, idle=3, total=8)


WRONG = [
    ({"targets": []}, "targets"),
    ({"targets": "a:m"}, "targets"),
    ({"targets": ["a:m"] * 2}, "twice"),
    ({"targets": [f"a:{n}" for n in range(33)]}, "targets"),
    ({"targets": ["m"]}, "targets.0.model"),
    ({"targets": ["a:"]}, "targets.0.model"),
    ({"targets": ["A:m"]}, "targets.0.model"),
    ({"targets": ["a:m\x00"]}, "targets.0.model"),
    ({"targets": ["a:\ud800"]}, "targets.0.model"),
    ({"targets": [7]}, "targets.0"),
    ({"targets": [{"model": "a:m", "wieght": 1}]}, "targets.0.wieght"),
    ({"targets": [{"model": "a:m", "weight": -1}], "strategy": "weighted"}, "weight"),
    ({"targets": [{"model": "a:m", "weight": "NaN"}], "strategy": "weighted"}, "weight"),
    ({"targets": [{"model": "a:m", "weight": 0}], "strategy": "weighted"}, "above 0"),
    ({"targets": [{"model": "a:m", "weight": 1}]}, "weights mean nothing"),
    ({"targets": [{"model": "a:m", "when": {"task": []}}]}, "task"),
    ({"targets": [{"model": "a:m", "when": {"task": "a\nb"}}]}, "task"),
    ({"targets": [{"model": "a:m", "when": {"complexity": "hard"}}]}, "complexity"),
    ({"targets": [{"model": "a:m", "when": {"complexity": {}}}]}, "complexity"),
    ({"targets": [{"model": "a:m", "when": {"input_tokens": {"min": 2, "max": 1}}}]}, "input_tokens"),
    ({"targets": [{"model": "a:m", "when": {"images": True}}]}, "images"),
    ({"targets": ["a:m"], "strategy": "cheapest"}, "strategy"),
    ({"targets": ["a:m"], "deadlines": {"idle": 0}}, "deadlines.idle"),
    ({"targets": ["a:m"], "deadlines": {"idle": float("inf")}}, "deadlines.idle"),
    ({"targets": ["a:m"], "retries": 6}, "retries"),
    ({"targets": ["a:m"], "cache": {"ttl": 1, "semantic": 1.1}}, "cache.semantic"),
    ({"targets": ["a:m"], "stciky": True}, "stciky"),
]


@pytest.mark.parametrize(("given", "named"), WRONG)
def test_a_wrong_route_is_refused_and_names_what_is_wrong(given, named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Route(name="smart", **given)
    told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in caught.value.errors())
    assert named in told


@pytest.mark.parametrize("name", ["", "a:b", "-a", "a b", "a/b", "ä", "a" * 101, "a\n"])
def test_a_name_has_no_colon_and_nothing_strange(name: str) -> None:
    with pytest.raises(ValidationError):
        Route(name=name, targets=["a:m"])


class TestTheOperatorsFile:
    def test_routes_by_their_names(self) -> None:
        made = operators_routes(
            {"routes": {"smart": {"targets": ["a:m"]}, "cheap": {"targets": ["b:m"], "retries": 0}}}
        )
        assert made["smart"] == Route(name="smart", targets=["a:m"])
        assert made["cheap"].retries == 0
        assert operators_routes({}) == {}

    @pytest.mark.parametrize(
        ("table", "told"),
        [
            ({"rotues": {}}, "gateway.rotues: unknown key"),
            ({"routes": {"smart": {"targets": ["a:m"], "stciky": 1}}}, "gateway.routes.smart.stciky: unknown key"),
            (
                {"routes": {"smart": {"targets": [{"model": "a:m", "whne": {}}]}}},
                "gateway.routes.smart.targets.0.whne: unknown key",
            ),
            ({"routes": {"a:b": {"targets": ["a:m"]}}}, "gateway.routes.a:b"),
            ({"routes": {"smart": {}}}, "gateway.routes.smart.targets: Field required"),
            ({"routes": []}, "gateway.routes"),
        ],
    )
    def test_a_mistake_stops_the_start_with_the_keys_name(self, table, told: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            operators_routes(table)
        assert told in caught.value.detail

    def test_it_stops_the_whole_app(self, tmp_path: Path) -> None:
        wrong = Settings.load(data_dir=tmp_path, gateway={"routes": {"smart": {"targets": ["a:m"], "stciky": True}}})
        with pytest.raises(ConfigurationError, match=r"gateway\.routes\.smart\.stciky"):
            App(wrong)
