"""How hard to think, said as Claude understands it, and what must give way to it.

When only one of effort and budget is known, this table gives the other (tokens):

| minimal | low   | medium | high   | xhigh  |
|---------|-------|--------|--------|--------|
| 1,024   | 2,048 | 8,192  | 16,384 | 32,768 |
"""

from ...dialogue import Ask, Reasoning
from ..base import Body
from ..fields import wrong
from ..values import maybe_string
from .fields import maybe_mapping, whole
from .models import Abilities, abilities
from .thoughts import KINDS

BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 32_768}
# Anthropic takes no smaller budget.
LEAST_BUDGET = 1_024
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_MOST_BUDGET = 10_000_000
# With thinking on, Anthropic takes top_p only from here to 1, and no temperature but 1.
_LEAST_TOP_P = 0.95


def budget_of(effort: str) -> int:
    """Tokens of thought that `effort` stands for; 0 for `none`."""
    return 0 if effort == "none" else BUDGETS.get(effort, BUDGETS["medium"])


def effort_of(budget: int) -> str:
    """The least effort whose figure reaches `budget`."""
    if budget <= 0:
        return "none"
    return next((effort for effort, figure in BUDGETS.items() if budget <= figure), "xhigh")


def read_reasoning(body: Body) -> Reasoning | None:
    """`thinking` and `output_config.effort` of a request."""
    config = maybe_mapping(body.get("output_config"), "output_config") or {}
    effort = maybe_string(config.get("effort"), "output_config.effort")
    if effort is not None and effort not in _EFFORTS:
        raise wrong("output_config.effort", f"must be one of {', '.join(_EFFORTS)}")
    # The neutral form ends at xhigh; what lies beyond is no other format's word.
    effort = "xhigh" if effort == "max" else effort
    thinking = maybe_mapping(body.get("thinking"), "thinking")
    if thinking is None:
        return Reasoning(effort=effort) if effort else None
    shown = {"summarized": True, "omitted": False}.get(str(thinking.get("display")))
    match thinking.get("type"):
        case "enabled":
            budget = whole(thinking.get("budget_tokens"), "thinking.budget_tokens", 1, _MOST_BUDGET)
            if budget is None:
                raise wrong("thinking.budget_tokens", "is required with thinking of type enabled")
            return Reasoning(effort, budget, shown)
        case "adaptive":
            return Reasoning(effort, None, shown)
        case "disabled" | "between_tools":
            # No thoughts, whatever the effort spent on the words.
            return Reasoning("none", 0)
    raise wrong("thinking.type", "must be enabled, adaptive, disabled or between_tools")


def write_reasoning(ask: Ask, body: Body, limit: int) -> None:
    """Puts `max_tokens`, `thinking`, `output_config.effort` and the sampling that goes with them into `body`.

    `limit`: what `max_tokens` is when the request names none. The messages stand in `body` already.
    """
    able = abilities(ask.model)
    body["max_tokens"] = limit if ask.max_tokens is None else ask.max_tokens
    thinking = _thinking(ask, able, body)
    if thinking is not None:
        body["thinking"] = thinking
    if (effort := _effort(ask.reasoning, able)) is not None:
        body["output_config"] = {"effort": effort}
    _write_sampling(ask, body, able, on=thinking is not None and thinking["type"] in ("enabled", "adaptive"))


def _thinking(ask: Ask, able: Abilities, body: Body) -> Body | None:
    wanted = ask.reasoning
    if wanted is None:
        return None
    if wanted.budget == 0 or wanted.effort == "none":
        return None if able.quiet is None else {"type": able.quiet}
    if _forced(ask):
        # Anthropic refuses a forced tool together with thinking that was asked for. The caller counts on the tool call,
        # while thinking is a wish about quality: thinking gives way.
        return None
    if able.adaptive and not (able.budget and wanted.budget):
        thinking: Body = {"type": "adaptive"}
        if wanted.shown is not None:
            thinking["display"] = "summarized" if wanted.shown else "omitted"
        return thinking
    if _resumes_without_thoughts(body["messages"]):
        return None
    budget = _fit(wanted, ask.max_tokens, body)
    return {"type": "enabled", "budget_tokens": budget} if budget else None


def _fit(wanted: Reasoning, limit: int | None, body: Body) -> int:
    """A budget below `max_tokens`, as Anthropic counts thoughts in it; 0 when there is no room for any.

    A limit that the caller set holds, as money was reserved by it: the budget shrinks, to three quarters, so that room
    is left for the answer. Our own default is no promise to anybody: it is raised by the budget.
    """
    budget = max(LEAST_BUDGET, wanted.budget or budget_of(wanted.effort or "medium"))
    if limit is None:
        body["max_tokens"] += budget
        return budget
    if limit <= LEAST_BUDGET:
        return 0
    stated = wanted.budget is not None and budget < limit
    return budget if stated else max(LEAST_BUDGET, min(budget, limit * 3 // 4))


def _effort(wanted: Reasoning | None, able: Abilities) -> str | None:
    if wanted is None or not able.efforts:
        return None
    effort = wanted.effort
    if effort is None and wanted.budget and able.adaptive and not able.budget:
        effort = effort_of(wanted.budget)
    if effort == "none" or wanted.budget == 0:
        # It cannot be kept from thinking: as little as can be.
        return "low" if able.quiet == "adaptive" else None
    if effort is None:
        return None
    if effort in able.efforts:
        return effort
    # Never more than was asked for: a model without xhigh gets high, not max.
    return "low" if effort == "minimal" else "high"


def _write_sampling(ask: Ask, body: Body, able: Abilities, on: bool) -> None:
    if not able.sampling:
        return
    top_p = ask.top_p
    if on:
        # With thinking on, only a high top_p is taken.
        if top_p is not None and top_p >= _LEAST_TOP_P:
            body["top_p"] = top_p
        return
    if ask.temperature is not None:
        # OpenAI's scale ends at 2, this one at 1; what lies above says "as varied as can be".
        body["temperature"] = min(ask.temperature, 1.0)
    if top_p is not None and not (able.one_sampler and ask.temperature is not None):
        body["top_p"] = top_p
    if ask.top_k is not None:
        body["top_k"] = ask.top_k


def _forced(ask: Ask) -> bool:
    return bool(ask.tools) and ask.tool_choice is not None and ask.tool_choice.mode in ("any", "tool")


def _resumes_without_thoughts(messages: list[Body]) -> bool:
    """Whether the request goes on after tool calls whose thoughts it does not carry, because another model made them or
    their client's format has no place for them. With a budget, Anthropic then refuses to think in this turn."""
    if len(messages) < 2 or messages[-1]["content"][0]["type"] != "tool_result":
        return False
    return messages[-2]["content"][0]["type"] not in KINDS
