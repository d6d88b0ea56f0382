"""Requests of the Responses API: checked, read into an Ask, written from one."""

from collections.abc import Iterator
from typing import Any

from ....kernel import json
from ....kernel.errors import BadRequest, FieldError
from ...dialogue import SEARCHES, Ask, Output, Reasoning, Request, Text, Thinking, Tool, ToolChoice, Turn
from .. import values
from ..base import Body, Quirks
from ..fields import wrong
from ..pictures import handed_back
from . import fields as read
from . import items
from . import seal as seals
from .told import kept

_MAX_NAME = 512
_MAX_TOKENS = 10_000_000
# OpenAI refuses to be asked for less; see `written`.
MIN_OUTPUT_TOKENS = 16
# What a picture or a file may cost in tokens cannot be seen from its bytes; this is reserved for each.
_MEDIA_TOKENS = 8_192
# Nor can be seen what the provider adds by itself: a kept conversation, a stored prompt, what its own tools find. It is
# at most a context window.
_UNSEEN_TOKENS = 400_000
_KEPT = ("previous_response_id", "conversation", "prompt")
_OUR_TOOLS = ("function", "custom")
_MEDIA = ("input_image", "input_file", "input_audio", "computer_screenshot", "image_generation_call")
_PAYLOADS = ("image_url", "file_data", "result")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_MODES = {"auto": "auto", "none": "none", "required": "any"}
_NO_PARAMETERS = {"type": "object", "properties": {}}


def checked(body: Body, size: int | None) -> Request:
    """What the pipeline must know. See Wire.check."""
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > _MAX_NAME or not model.isprintable():
        raise wrong("model", "must be the name of a model, such as openai:gpt-5.2 or sim:echo")
    asked = _asked(body)
    tools = values.items(body.get("tools"), "tools")
    read.fields(body.get("stream_options"), "stream_options")
    reasoning = read.fields(body.get("reasoning"), "reasoning")
    media = [length for item in asked for length in _media(item)]
    return Request(
        model=model,
        stream=bool(values.flag(body.get("stream"), "stream")),
        max_tokens=read.count(body.get("max_output_tokens"), "max_output_tokens", _MAX_TOKENS),
        input_bound=_bound(body, asked, tools, media, size),
        turns=max(1, len(asked)),
        tools=len(tools),
        media=len(media),
        reasoning=bool(reasoning) and reasoning.get("effort") != "none",
        web_searches=_searches(body, tools),
        user=_user(body),
        metadata=read.fields(body.get("metadata"), "metadata"),
        told=kept(body),
    )


def _searches(body: Body, tools: list[Any]) -> int:
    """How often OpenAI may search the web at most; its limit counts calls of every tool of its own."""
    kinds = [tool.get("type") for tool in tools if isinstance(tool, dict)]
    if not any(isinstance(kind, str) and kind.startswith("web_search") for kind in kinds):
        return 0
    most = body.get("max_tool_calls")
    return min(most, _MAX_TOKENS) if type(most) is int and most >= 0 else SEARCHES


def understood(body: Body) -> Ask:
    """The request in no one's words. See Wire.read."""
    _refuse_kept(body)
    talk = items.Conversation()
    instructions = values.maybe_string(body.get("instructions"), "instructions")
    if instructions:
        talk.system.append(Text(instructions))
    value = body.get("input")
    if isinstance(value, str):
        turns: tuple[Turn, ...] = (Turn("user", (Text(value),)),)
    else:
        for index, item in enumerate(values.items(value, "input")):
            talk.take(item, f"input[{index}]")
        turns = talk.turns
    return Ask(
        model=read.name(body.get("model"), "model"),
        turns=turns,
        system=tuple(talk.system),
        tools=tuple(_tools(body)),
        tool_choice=_tool_choice(body.get("tool_choice")),
        parallel_tools=values.flag(body.get("parallel_tool_calls"), "parallel_tool_calls"),
        max_tokens=read.count(body.get("max_output_tokens"), "max_output_tokens", _MAX_TOKENS),
        temperature=read.number(body.get("temperature"), "temperature"),
        top_p=read.number(body.get("top_p"), "top_p"),
        output=_output(body),
        reasoning=_reasoning(body),
        user=_user(body),
        stream=bool(values.flag(body.get("stream"), "stream")),
    )


def written(ask: Ask, quirks: Quirks) -> Body:
    """The request for a provider. See Wire.write.

    Fewer than MIN_OUTPUT_TOKENS are not asked for: OpenAI would refuse, and whoever asks for one token to try a key or
    to have a word chosen is better served by a few more than by an error.
    """
    if ask.stop:
        raise _unsayable("stop", "stop sequences")
    if ask.choices > 1:
        raise _unsayable("n", "several answers at once")
    asked = list(items.written(handed_back(ask.turns)))
    system = "\n\n".join(part.text for part in ask.system)
    body: Body = {"model": ask.model, "input": asked}
    if system and not asked:
        # Instructions alone are not taken for a request.
        body["input"] = [
            {"type": "message", "role": "developer" if quirks.developer_role else "system", "content": system}
        ]
    elif system:
        body["instructions"] = system
    if ask.tools:
        body["tools"] = [_written_tool(tool) for tool in ask.tools]
        if ask.tool_choice is not None:
            body["tool_choice"] = _written_choice(ask.tool_choice)
        if ask.parallel_tools is not None:
            body["parallel_tool_calls"] = ask.parallel_tools
    if ask.max_tokens is not None:
        body["max_output_tokens"] = max(ask.max_tokens, MIN_OUTPUT_TOKENS)
    if ask.output is not None:
        body["text"] = {"format": _written_output(ask.output)}
    body |= _written_reasoning(ask)
    said = {"temperature": ask.temperature, "top_p": ask.top_p, "user": ask.user, "stream": ask.stream or None}
    body |= {key: value for key, value in said.items() if value is not None}
    # The conversation is the caller's: the provider is to keep none of it.
    body["store"] = False
    return body


def native(body: Body) -> Body:
    """The body for a provider of this format, without reasoning items that hold the seal of another format: the
    provider would refuse what it cannot decrypt; with a limit to its searches, where none is set. The same object when
    nothing is to be changed."""
    if body.get("max_tool_calls") is None and _searches(body, values.items(body.get("tools"), "tools")):
        body = body | {"max_tool_calls": SEARCHES}
    value = body.get("input")
    if not isinstance(value, list):
        return body
    kept = [item for item in value if not (isinstance(item, dict) and seals.sealed(item.get("encrypted_content")))]
    return body if len(kept) == len(value) else body | {"input": kept}


def _asked(body: Body) -> list[Any]:
    value = body.get("input")
    if isinstance(value, str):
        return []
    if value is None and any(body.get(field) is not None for field in _KEPT):
        return []
    if not isinstance(value, list) or not value:
        raise wrong("input", "must be a text or a list with at least one item")
    for index, item in enumerate(value):
        values.mapping(item, f"input[{index}]")
    return value


def _bound(body: Body, asked: list[Any], tools: list[Any], media: list[int], size: int | None) -> int:
    size = len(json.dumps(body)) if size is None else size
    seen = max(0, size - sum(media)) + len(media) * _MEDIA_TOKENS
    unseen = (
        any(body.get(field) is not None for field in _KEPT)
        or any(item.get("type", "item_reference" if "role" not in item else None) == "item_reference" for item in asked)
        or any(not isinstance(tool, dict) or tool.get("type") not in _OUR_TOOLS for tool in tools)
    )
    return seen + _UNSEEN_TOKENS if unseen else seen


def _media(item: Body) -> Iterator[int]:
    """How long the data of each picture, sound and file in `item` is."""
    for value in (item, item.get("content"), item.get("output")):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict) and part.get("type") in _MEDIA:
                sound = part.get("input_audio")
                found = [part.get(key) for key in _PAYLOADS] + [sound.get("data") if isinstance(sound, dict) else None]
                yield sum(len(payload) for payload in found if isinstance(payload, str))


def _user(body: Body) -> str | None:
    user = values.maybe_string(body.get("user"), "user")
    return user or values.maybe_string(body.get("safety_identifier"), "safety_identifier") or None


def _refuse_kept(body: Body) -> None:
    """What rests on a provider's memory, or on work that only it does, cannot be said to another."""
    for field in ("previous_response_id", "conversation"):
        if body.get(field) is not None:
            raise read.untranslatable(field, "Backstay keeps no conversations: send the whole of it as `input`")
    if values.flag(body.get("background"), "background"):
        raise read.untranslatable("background", "leave it out and wait for the answer, or stream it")
    if body.get("prompt") is not None:
        raise read.untranslatable("prompt", "send the text of the stored prompt as `instructions`")
    if read.fields(body.get("moderation"), "moderation").get("policy") is not None:
        raise read.untranslatable("moderation.policy", "leave it out")


def _tools(body: Body) -> Iterator[Tool]:
    for index, value in enumerate(values.items(body.get("tools"), "tools")):
        path = f"tools[{index}]"
        tool = values.mapping(value, path)
        kind = read.name(tool.get("type"), f"{path}.type")
        if kind != "function":
            raise read.untranslatable(f"{path}.type", f"offer functions instead of {kind[:64]!r}")
        parameters = tool.get("parameters")
        yield Tool(
            read.name(tool.get("name"), f"{path}.name"),
            values.maybe_string(tool.get("description"), f"{path}.description"),
            None if parameters is None else values.mapping(parameters, f"{path}.parameters"),
            values.flag(tool.get("strict"), f"{path}.strict"),
        )


def _tool_choice(value: Any) -> ToolChoice | None:
    if value is None:
        return None
    if isinstance(value, str):
        if value not in _MODES:
            raise wrong("tool_choice", "must be auto, none, required, or an object that names a function")
        return ToolChoice(_MODES[value])  # type: ignore[arg-type]
    kind = values.mapping(value, "tool_choice").get("type")
    if kind == "function":
        return ToolChoice("tool", read.name(value.get("name"), "tool_choice.name"))
    kind = read.name(kind, "tool_choice.type")
    raise read.untranslatable("tool_choice.type", f"choose a function instead of {kind[:64]!r}")


def _output(body: Body) -> Output | None:
    format = read.fields(read.fields(body.get("text"), "text").get("format"), "text.format")
    kind = format.get("type")
    if not format or kind == "text":
        return None
    if kind == "json_object":
        return Output()
    if kind == "json_schema":
        return Output(
            values.mapping(format.get("schema"), "text.format.schema"),
            read.name(format.get("name"), "text.format.name"),
            values.flag(format.get("strict"), "text.format.strict"),
        )
    raise wrong("text.format.type", "must be text, json_object or json_schema")


def _reasoning(body: Body) -> Reasoning | None:
    asked = read.fields(body.get("reasoning"), "reasoning")
    effort = values.maybe_string(asked.get("effort"), "reasoning.effort")
    if effort is not None and effort not in _EFFORTS:
        raise wrong("reasoning.effort", f"must be one of {', '.join(_EFFORTS)}")
    shown = values.maybe_string(asked.get("summary") or asked.get("generate_summary"), "reasoning.summary") is not None
    if effort is None and not shown:
        return None
    return Reasoning("xhigh" if effort == "max" else effort, shown=shown or None)


def _written_tool(tool: Tool) -> Body:
    body: Body = {"type": "function", "name": tool.name, "parameters": dict(tool.parameters or _NO_PARAMETERS)}
    # Alone among the formats this one takes a function that says nothing for strict, and then refuses its schema.
    body["strict"] = bool(tool.strict)
    return body | {"description": tool.description} if tool.description is not None else body


def _written_choice(choice: ToolChoice) -> str | Body:
    if choice.mode == "tool":
        return {"type": "function", "name": choice.name}
    return "required" if choice.mode == "any" else choice.mode


def _written_output(output: Output) -> Body:
    if output.schema is None:
        return {"type": "json_object"}
    format: Body = {"type": "json_schema", "name": output.name or "answer", "schema": dict(output.schema)}
    return format | {"strict": output.strict} if output.strict is not None else format


def _written_reasoning(ask: Ask) -> Body:
    asked = ask.reasoning or Reasoning()
    effort = asked.effort
    if effort is None and asked.budget:
        effort = "low" if asked.budget < 4_096 else "medium" if asked.budget < 16_384 else "high"
    reasoning = {
        key: value for key, value in (("effort", effort), ("summary", "auto" if asked.shown else None)) if value
    }
    thoughts = (part for turn in ask.turns for part in turn.parts if isinstance(part, Thinking))
    thinks = (bool(reasoning) and effort != "none") or any(part.origin == seals.ORIGIN for part in thoughts)
    # Without this, thoughts could not come back in the next request, as nothing is stored. Models that do not think
    # refuse it. No thinking at all (a budget of 0) is asked for by saying nothing, which every model understands.
    include = {"include": ["reasoning.encrypted_content"]} if thinks else {}
    return ({"reasoning": reasoning} if reasoning else {}) | include


def _unsayable(field: str, what: str) -> BadRequest:
    return BadRequest(
        f"`{field}` cannot be translated",
        errors=[FieldError(field, f"the Responses API, which serves this model, has no {what}; leave it out")],
    )
