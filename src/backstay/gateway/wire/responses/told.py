"""What an answer of the Responses API tells again of its request."""

from typing import Any

from ...dialogue import JsonObject
from ..base import Body

_AS_GIVEN = (
    "frequency_penalty",
    "instructions",
    "max_tool_calls",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
)
# What is said of each, where a request leaves it out.
_TOOL: Body = {"description": None, "parameters": None, "strict": None}
_FORMAT: Body = {"description": None, "strict": False}
_REASONING: Body = {"effort": None, "summary": None}


def kept(body: Body) -> JsonObject:
    """The fields of a request that its answer tells again, as the request has them."""
    return {name: body[name] for name in _AS_GIVEN if body.get(name) is not None}


def told(given: JsonObject) -> Body:
    """Those fields as an answer has them: all of them, and whole."""
    answer: Body = {
        "frequency_penalty": 0.0,
        "instructions": None,
        "max_tool_calls": None,
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "temperature": 1.0,
        "tool_choice": "auto",
        "top_logprobs": 0,
        "top_p": 1.0,
        **given,
    }
    tools, text, reasoning = given.get("tools"), given.get("text"), given.get("reasoning")
    answer["tools"] = [_tool(tool) for tool in tools] if isinstance(tools, list) else []
    answer["text"] = _text(text if isinstance(text, dict) else {})
    answer["reasoning"] = _REASONING | (reasoning if isinstance(reasoning, dict) else {})
    return answer


def _tool(tool: Any) -> Any:
    return _TOOL | tool if isinstance(tool, dict) and tool.get("type") == "function" else tool


def _text(text: Body) -> Body:
    form = text.get("format")
    if not isinstance(form, dict):
        return {**text, "format": {"type": "text"}}
    return {**text, "format": _FORMAT | form if form.get("type") == "json_schema" else form}
