"""The score: every rule, what it says, and where the levels begin."""

import pytest

from backstay.gateway.catalog import Facts
from backstay.gateway.catalog.complexity import measured
from backstay.gateway.dialogue import Request


def of(structured: bool = False, code: bool = False, **request):
    return measured(Facts(Request("m", **request), "f", structured=structured, code=code))


@pytest.mark.parametrize(
    ("given", "rule", "points"),
    [
        ({"input_bound": 4 * 500}, "length", 5),
        ({"input_bound": 4 * 2_000}, "length", 15),
        ({"input_bound": 4 * 8_000}, "length", 25),
        ({"input_bound": 4 * 32_000}, "length", 35),
        ({"turns": 4}, "turns", 5),
        ({"turns": 10}, "turns", 10),
        ({"turns": 20}, "turns", 15),
        ({"tools": 1}, "tools", 10),
        ({"tools": 4}, "tools", 20),
        ({"media": 1}, "media", 10),
        ({"reasoning": True}, "reasoning", 30),
        ({"structured": True}, "structured", 10),
        ({"code": True}, "code", 15),
    ],
)
def test_each_rule_fires_alone_and_says_what_it_saw(given, rule: str, points: int) -> None:
    (fired,) = of(**given).fired
    assert (fired.rule, fired.points) == (rule, points)
    assert fired.because


@pytest.mark.parametrize("given", [{"input_bound": 4 * 499}, {"turns": 3}, {}])
def test_below_the_first_step_nothing_fires(given) -> None:
    assert of(**given).explained() == {"score": 0, "level": "simple", "rules": []}


def test_the_levels_begin_at_25_and_50() -> None:
    levels = {of(turns=4, tools=1).score: "simple", of(code=True, structured=True).score: "moderate"}
    assert levels == {15: "simple", 25: "moderate"}
    assert of(code=True, structured=True).level == "moderate"
    assert (of(reasoning=True, tools=4).score, of(reasoning=True, tools=4).level) == (50, "complex")


def test_the_score_ends_at_100() -> None:
    everything = of(True, True, input_bound=10**7, turns=99, tools=99, media=9, reasoning=True)
    assert everything.score == 100
    assert sum(rule.points for rule in everything.fired) > 100
