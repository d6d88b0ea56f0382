"""Usage and the reasons of an end, both ways.

Anthropic counts tokens read from a prompt cache and tokens written to one outside `input_tokens`; we count them inside.
"""

from collections.abc import Mapping
from typing import Any

from ...dialogue import Stop
from ...models import Usage
from ..base import Body

_STOPS = {
    "end_turn": Stop.END,
    "max_tokens": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "stop_sequence": Stop.SEQUENCE,
    "tool_use": Stop.TOOL,
    "refusal": Stop.REFUSAL,
    # A long turn of tools that run at Anthropic, which no other format has: its caller may go on as after any turn.
    "pause_turn": Stop.END,
}
_REASONS = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.SEQUENCE: "stop_sequence",
    Stop.TOOL: "tool_use",
    Stop.REFUSAL: "refusal",
}
_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def read_stop(reason: Any) -> Stop | None:
    """Why the answer ended; a reason that is not known is an end like any other."""
    return _STOPS.get(reason, Stop.END) if isinstance(reason, str) else None


def write_stop(stop: Stop | None, *, tools: bool, refused: bool) -> str:
    """The reason as this format's clients expect it. Some formats call it a plain end when tools are called or when the
    model refuses; here a client acts on the reason alone."""
    if stop in (None, Stop.END):
        return "tool_use" if tools else "refusal" if refused else "end_turn"
    return _REASONS[stop]


def read_usage(usage: Any) -> Usage | None:
    """What was used; None when nothing in it can be counted."""
    if not isinstance(usage, dict) or not any(_is_count(usage.get(name)) for name in _COUNTS):
        return None
    cached, output = _count(usage, "cache_read_input_tokens"), _count(usage, "output_tokens")
    hour = _count(usage.get("cache_creation"), "ephemeral_1h_input_tokens")
    minutes = _count(usage.get("cache_creation"), "ephemeral_5m_input_tokens")
    written = max(_count(usage, "cache_creation_input_tokens"), hour + minutes)
    thought = _count(usage.get("output_tokens_details"), "thinking_tokens")
    return Usage(
        input_tokens=_count(usage, "input_tokens") + cached + written,
        output_tokens=output,
        cached_tokens=cached,
        reasoning_tokens=min(thought, output),
        written_tokens=written,
        written_hour_tokens=hour,
        web_searches=_count(usage.get("server_tool_use"), "web_search_requests"),
    )


def write_usage(usage: Usage) -> Body:
    hour = min(usage.written_hour_tokens, usage.written_tokens)
    body: Body = {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens - usage.written_tokens),
        "cache_creation_input_tokens": usage.written_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.written_tokens - hour,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }
    if usage.web_searches:
        body["server_tool_use"] = {"web_search_requests": usage.web_searches}
    return body


def message_usage(usage: Usage) -> Body:
    """As a message has it: with what is said of Anthropic's own service, where there is nothing to say."""
    return {"inference_geo": None, "server_tool_use": None, "service_tier": None} | write_usage(usage)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _count(usage: Mapping[str, Any] | None, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and _is_count(value) else 0
