import pytest

from backstay.gateway.dialogue import Ask, Reasoning, Text, Thinking, Tool, ToolCall, ToolChoice, ToolResult, Turn
from backstay.gateway.wire.anthropic import WIRE
from backstay.gateway.wire.anthropic.thinking import BUDGETS, budget_of, effort_of
from unit.gateway.wire.anthropic_requests import written

USER = Turn("user", (Text("Hello"),))
OLD, BETWEEN, NEW, FOREIGN = "claude-haiku-4-5-20251001", "claude-sonnet-4-6", "claude-opus-5", "glm-5.2"


def told(model, reasoning, **rest):
    return written(Ask(model=model, turns=rest.pop("turns", (USER,)), reasoning=reasoning, **rest))


def read(**body):
    return WIRE.read({"model": "m", "messages": [{"role": "user", "content": "x"}], **body}).reasoning


def test_effort_and_budget_are_translated_by_one_table():
    for effort, budget in BUDGETS.items():
        assert budget_of(effort) == budget
        assert effort_of(budget) == effort
        assert effort_of(budget - 1) == effort
    assert (budget_of("none"), effort_of(0), effort_of(10**6)) == (0, "none", "xhigh")


@pytest.mark.parametrize(
    ("body", "reasoning"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, Reasoning(budget=2000)),
        ({"thinking": {"type": "adaptive"}}, Reasoning()),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, Reasoning(shown=True)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Reasoning(shown=False)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, Reasoning("low")),
        ({"output_config": {"effort": "max"}}, Reasoning("xhigh")),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, Reasoning("none", 0)),
        ({"thinking": {"type": "between_tools"}}, Reasoning("none", 0)),
    ],
)
def test_what_a_client_says_of_thinking(body, reasoning):
    assert read(**body) == reasoning


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort"),
    [
        (OLD, Reasoning(budget=2000), {"type": "enabled", "budget_tokens": 2000}, None),
        (OLD, Reasoning(budget=10), {"type": "enabled", "budget_tokens": 1024}, None),
        (OLD, Reasoning("low"), {"type": "enabled", "budget_tokens": 2048}, None),
        (OLD, Reasoning(), {"type": "enabled", "budget_tokens": 8192}, None),
        (OLD, Reasoning("none"), None, None),
        ("claude-opus-4-5", Reasoning("xhigh"), {"type": "enabled", "budget_tokens": 32768}, "high"),
        (BETWEEN, Reasoning(budget=2000), {"type": "enabled", "budget_tokens": 2000}, None),
        (BETWEEN, Reasoning("medium"), {"type": "adaptive"}, "medium"),
        (BETWEEN, Reasoning("xhigh"), {"type": "adaptive"}, "high"),
        (NEW, Reasoning(budget=2000), {"type": "adaptive"}, "low"),
        (NEW, Reasoning(budget=60_000), {"type": "adaptive"}, "xhigh"),
        (NEW, Reasoning("minimal", shown=True), {"type": "adaptive", "display": "summarized"}, "low"),
        (NEW, Reasoning(shown=False), {"type": "adaptive", "display": "omitted"}, None),
        (NEW, Reasoning("none"), {"type": "disabled"}, None),
        (NEW, Reasoning(budget=0), {"type": "disabled"}, None),
        ("claude-opus-4-8", Reasoning("none"), None, None),
        ("claude-sonnet-5-5", Reasoning("none"), {"type": "between_tools"}, None),
        ("claude-opus-5-5", Reasoning("none"), {"type": "adaptive"}, "low"),
        ("us.anthropic.claude-fable-5-1-v1:0", Reasoning("none"), {"type": "adaptive"}, "low"),
        ("claude-mythos-preview", Reasoning("xhigh"), {"type": "adaptive"}, "xhigh"),
        ("anthropic/claude-opus-4.7", Reasoning(budget=9000), {"type": "adaptive"}, "high"),
        ("claude-opus-4-20250514", Reasoning("low"), {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-3-7-sonnet-20250219", Reasoning("low"), {"type": "enabled", "budget_tokens": 2048}, None),
        (FOREIGN, Reasoning("low"), {"type": "enabled", "budget_tokens": 2048}, None),
        (FOREIGN, Reasoning("none"), {"type": "disabled"}, None),
        (NEW, None, None, None),
    ],
)
def test_each_generation_is_told_in_its_own_way(model, reasoning, thinking, effort):
    body = told(model, reasoning, max_tokens=100_000)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort
    assert body["max_tokens"] == 100_000


@pytest.mark.parametrize(
    ("limit", "reasoning", "budget"),
    [
        (4000, Reasoning(budget=3999), 3999),
        (4000, Reasoning(budget=4000), 3000),
        (4000, Reasoning("high"), 3000),
        (4000, Reasoning("low"), 2048),
        (1200, Reasoning("high"), 1024),
        (1025, Reasoning(budget=9999), 1024),
    ],
)
def test_a_limit_of_the_caller_shrinks_the_budget(limit, reasoning, budget):
    body = told(OLD, reasoning, max_tokens=limit)
    assert (body["thinking"]["budget_tokens"], body["max_tokens"]) == (budget, limit)


def test_where_a_limit_leaves_no_room_there_is_no_thinking():
    body = told(OLD, Reasoning("high"), max_tokens=1024, temperature=0.5)
    assert "thinking" not in body
    assert body["temperature"] == 0.5


def test_our_own_limit_is_raised_by_the_budget():
    body = told(OLD, Reasoning("high"))
    assert (body["thinking"]["budget_tokens"], body["max_tokens"]) == (16_384, 16_384 + 4096)


@pytest.mark.parametrize(
    ("model", "reasoning", "sampling"),
    [
        (OLD, None, {"temperature": 1.0, "top_k": 5}),
        (OLD, Reasoning("low"), {"top_p": 0.96}),
        (BETWEEN, Reasoning("low"), {"top_p": 0.96}),
        (BETWEEN, Reasoning("none"), {"temperature": 1.0, "top_k": 5}),
        (NEW, None, {}),
        (NEW, Reasoning("low"), {}),
        (FOREIGN, None, {"temperature": 1.0, "top_p": 0.96, "top_k": 5}),
    ],
)
def test_sampling_is_what_the_model_takes(model, reasoning, sampling):
    body = told(model, reasoning, max_tokens=9000, temperature=1.7, top_p=0.96, top_k=5)
    assert {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} == sampling


def test_a_low_top_p_gives_way_to_thinking():
    assert "top_p" not in told(OLD, Reasoning("low"), max_tokens=9000, top_p=0.5)
    assert told(OLD, None, top_p=0.5)["top_p"] == 0.5


@pytest.mark.parametrize("model", [OLD, BETWEEN, NEW])
def test_thinking_gives_way_to_a_forced_tool(model):
    tools = (Tool("f"),)
    body = told(model, Reasoning("low"), max_tokens=9000, tools=tools, tool_choice=ToolChoice("tool", "f"))
    assert "thinking" not in body
    assert body["tool_choice"] == {"type": "tool", "name": "f"}
    body = told(model, Reasoning("low"), max_tokens=9000, tools=tools, tool_choice=ToolChoice("auto"))
    assert body["thinking"]["type"] in ("enabled", "adaptive")


def test_a_turn_whose_calls_came_without_thoughts_goes_on_without():
    call, result = ToolCall("a", "f", "{}"), Turn("user", (ToolResult("a", (Text("1"),)),))
    without = (USER, Turn("assistant", (call,)), result)
    assert "thinking" not in told(OLD, Reasoning("low"), max_tokens=9000, turns=without)
    assert told(NEW, Reasoning("low"), max_tokens=9000, turns=without)["thinking"] == {"type": "adaptive"}
    thought = Thinking("t", "s", origin="anthropic")
    with_them = (USER, Turn("assistant", (thought, call)), result)
    assert told(OLD, Reasoning("low"), max_tokens=9000, turns=with_them)["thinking"]["type"] == "enabled"
    foreign = (USER, Turn("assistant", (Thinking("t", "s", origin="gemini"), call)), result)
    assert "thinking" not in told(OLD, Reasoning("low"), max_tokens=9000, turns=foreign)
