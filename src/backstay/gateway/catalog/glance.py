"""A look at a request's body, whichever of the formats it is in: as much as routing needs, and never an error.

OpenAI's chat completions and Anthropic's messages have `messages`, OpenAI's responses have `input`, Gemini has
`contents`. What has another shape counts as not there: checking a request is its wire format's business.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import orjson

from ..dialogue import Request

Body = Mapping[str, Any]
_SYSTEM = ("system", "developer")
_MEDIA = re.compile(r"image|audio|video|file|document", re.IGNORECASE)
_MEDIA_KEYS = frozenset({"inlineData", "inline_data", "fileData", "file_data"})
_CODE = re.compile(
    r"```|Traceback \(most recent call last\)"
    r"|^[ \t]*(?:def \w+\(|class \w+[:({]|import [\w.]+;?$|from [\w.]+ import |function \w*\(|(?:const|let|var) \w+ ?="
    r"|public (?:static |class |void )|#include\b|package \w+;?$|func \w+\(|fn \w+\(|SELECT\b)",
    re.MULTILINE,
)
_MOST_SEARCHED = 20_000  # characters


def system_text(body: Body) -> str:
    """The instructions in front of the conversation."""
    top = (body.get(name) for name in ("system", "instructions", "systemInstruction", "system_instruction"))
    told = [text for value in top for text in _texts(value)]
    told += [text for turn in _turns(body) if turn.get("role") in _SYSTEM for text in _texts(turn)]
    return "\n".join(told)


def first_user_text(body: Body) -> str:
    """What the user said first; empty when that is not text."""
    return next((text for turn in _user_turns(body) if (text := "\n".join(_texts(turn)))), "")


def structured(body: Body) -> bool:
    """Whether the answer must be JSON."""
    gemini = _of(body, "generationConfig", "generation_config")
    if any(gemini.get(name) for name in ("responseSchema", "response_schema", "responseJsonSchema")):
        return True
    if gemini.get("responseMimeType", gemini.get("response_mime_type")) == "application/json":
        return True
    asked = (
        _of(body, "response_format"),
        _of(_of(body, "text"), "format"),
        _of(_of(body, "output_config"), "format"),
        _of(body, "output_format"),
    )
    return any(format.get("type") in ("json_schema", "json_object") for format in asked)


def code(body: Body) -> bool:
    """Whether the last user turn seems to hold code."""
    last = deque(_user_turns(body), maxlen=1)
    return any(_CODE.search("\n".join(_texts(turn))[:_MOST_SEARCHED]) for turn in last)


def request(body: Body, size: int | None = None) -> Request:
    """The request as far as it can be seen without its format: for explanations. `size`: bytes, when known."""
    gemini, metadata = _of(body, "generationConfig", "generation_config"), body.get("metadata")
    limits = [body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    limits.append(gemini.get("maxOutputTokens"))
    model, user, choices = body.get("model"), body.get("user"), body.get("n")
    return Request(
        model=model if isinstance(model, str) else "",
        stream=body.get("stream") is True,
        max_tokens=next((limit for limit in limits if _is_count(limit)), None),
        choices=choices if _is_count(choices) else 1,
        input_bound=_size(body) if size is None else size,
        turns=sum(1 for turn in _turns(body) if turn.get("role") not in _SYSTEM),
        tools=_tools(body.get("tools")),
        media=sum(_is_media(part) for turn in _turns(body) for part in _parts(turn)),
        reasoning=_reasoning(body, gemini),
        user=user if isinstance(user, str) else None,
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _turns(body: Body) -> Iterator[Body]:
    for name in ("messages", "input", "contents"):
        given = body.get(name)
        if isinstance(given, str):
            yield {"role": "user", "content": given}
        elif isinstance(given, list):
            yield from (turn for turn in given if isinstance(turn, dict))


def _user_turns(body: Body) -> Iterator[Body]:
    return (turn for turn in _turns(body) if turn.get("role", "user") == "user")


def _parts(turn: Body) -> Iterator[Body]:
    for name in ("content", "parts"):
        given = turn.get(name)
        if isinstance(given, list):
            yield from (part for part in given if isinstance(part, dict))


def _texts(value: Any) -> Iterator[str]:
    """The texts in a content: a text, a part, a list of either, or something that has one of these."""
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            yield value["text"]
            return
        value = value.get("content", value.get("parts"))
    for part in value if isinstance(value, list) else [value]:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            yield text


def _is_media(part: Body) -> bool:
    kind = part.get("type")
    return bool(_MEDIA_KEYS & part.keys()) or (isinstance(kind, str) and _MEDIA.search(kind) is not None)


def _tools(given: Any) -> int:
    if not isinstance(given, list):
        return 0
    objects = (tool for tool in given if isinstance(tool, dict))
    declared = (tool.get("functionDeclarations", tool.get("function_declarations")) for tool in objects)
    return sum(len(several) if isinstance(several, list) else 1 for several in declared)


def _reasoning(body: Body, gemini: Body) -> bool:
    efforts = (body.get("reasoning_effort"), _of(body, "reasoning").get("effort"))
    if any(isinstance(effort, str) and effort != "none" for effort in efforts):
        return True
    if _of(body, "thinking").get("type") in ("enabled", "adaptive"):
        return True
    thinking = _of(gemini, "thinkingConfig", "thinking_config")
    budget = thinking.get("thinkingBudget", thinking.get("thinking_budget"))
    return bool(budget or thinking.get("thinkingLevel", thinking.get("thinking_level")))


def _of(body: Body, *names: str) -> Body:
    return next((value for name in names if isinstance(value := body.get(name), dict)), {})


def _size(body: Body) -> int:
    try:
        return len(orjson.dumps(body))
    except TypeError:  # half a character, or nested beyond all use: about as long as it is written out
        return len(str(body))


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10_000_000
