"""A Messages request and an Ask, each made of the other."""

from collections.abc import Iterable
from typing import Any

from ...dialogue import Ask, Output, Part, Text, Tool, ToolChoice, Turn
from ..base import Body, Quirks
from ..fields import wrong
from ..pictures import handed_back
from ..values import flag, items, mapping, maybe_string, string
from .blocks import read_content, read_texts, write_parts
from .fields import maybe_mapping, number, whole
from .schema import strict
from .thinking import read_reasoning, write_reasoning
from .thoughts import KINDS

MAX_TOKENS = 10_000_000
_ROLES = ("user", "assistant", "system")
# What would be lost with these changes the answer, and no other format has a word for it.
_UNTRANSLATABLE = ("mcp_servers", "container")
_JSON_PLEASE = "Answer with one JSON object and nothing else: no text around it, no code fence."


def read(body: Body) -> Ask:
    """The request in no one's words.

    Raises:
        BadRequest: a field has a shape that cannot be understood, or asks for what only Anthropic's own models have;
            the error names it (400).
    """
    for name in _UNTRANSLATABLE:
        if body.get(name):
            raise wrong(name, "is known to Anthropic's models only, and this model is not theirs")
    turns, later = _read_messages(body.get("messages"))
    choice = maybe_mapping(body.get("tool_choice"), "tool_choice")
    metadata = maybe_mapping(body.get("metadata"), "metadata") or {}
    return Ask(
        model=string(body.get("model"), "model"),
        turns=turns,
        # Instructions that come later in the conversation keep their rank and lose their place.
        system=(*read_texts(body.get("system"), "system"), *later),
        tools=tuple(_read_tool(tool, f"tools[{n}]") for n, tool in enumerate(items(body.get("tools"), "tools"))),
        tool_choice=_read_choice(choice) if choice else None,
        parallel_tools=_read_parallel(choice) if choice else None,
        max_tokens=whole(body.get("max_tokens"), "max_tokens", 0, MAX_TOKENS),
        temperature=number(body.get("temperature"), "temperature", 0, 1),
        top_p=number(body.get("top_p"), "top_p", 0, 1),
        top_k=whole(body.get("top_k"), "top_k", 0, MAX_TOKENS),
        stop=_read_stops(body.get("stop_sequences")),
        output=_read_output(body),
        reasoning=read_reasoning(body),
        user=maybe_string(metadata.get("user_id"), "metadata.user_id") or None,
        stream=flag(body.get("stream"), "stream") or False,
    )


def _read_messages(value: Any) -> tuple[tuple[Turn, ...], list[Text]]:
    turns: list[Turn] = []
    system: list[Text] = []
    for index, message in enumerate(items(value, "messages")):
        at = f"messages[{index}]"
        message = mapping(message, at)
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise wrong(f"{at}.role", f"must be one of {', '.join(_ROLES)}")
        if role == "system":
            system += read_texts(content, f"{at}.content")
        elif parts := read_content(content, role, f"{at}.content"):
            turns.append(Turn(role, parts))
    if not turns:
        raise wrong("messages", "must have at least one message with content")
    return tuple(turns), system


def _read_tool(value: Any, at: str) -> Tool:
    tool = mapping(value, at)
    kind = maybe_string(tool.get("type"), f"{at}.type")
    if kind not in (None, "custom"):
        told = (
            f"{kind[:60]} is a tool of Anthropic's, and this model is not theirs: choose one that is, or leave it out"
        )
        raise wrong(f"{at}.type", told)
    return Tool(
        name=string(tool.get("name"), f"{at}.name"),
        description=maybe_string(tool.get("description"), f"{at}.description"),
        parameters=mapping(tool.get("input_schema"), f"{at}.input_schema"),
        strict=flag(tool.get("strict"), f"{at}.strict"),
        cache=maybe_mapping(tool.get("cache_control"), f"{at}.cache_control"),
    )


def _read_choice(choice: Body) -> ToolChoice:
    match choice.get("type"):
        case "auto" | "any" | "none" as mode:
            return ToolChoice(mode)
        case "tool":
            return ToolChoice("tool", string(choice.get("name"), "tool_choice.name"))
    raise wrong("tool_choice.type", "must be auto, any, tool or none")


def _read_parallel(choice: Body) -> bool | None:
    disabled = flag(choice.get("disable_parallel_tool_use"), "tool_choice.disable_parallel_tool_use")
    return None if disabled is None else not disabled


def _read_stops(value: Any) -> tuple[str, ...]:
    return tuple(string(stop, f"stop_sequences[{n}]") for n, stop in enumerate(items(value, "stop_sequences")))


def _read_output(body: Body) -> Output | None:
    config = maybe_mapping(body.get("output_config"), "output_config") or {}
    at, form = "output_config.format", config.get("format")
    if form is None:
        # The name it had before.
        at, form = "output_format", body.get("output_format")
    form = maybe_mapping(form, at)
    if form is None:
        return None
    if form.get("type") != "json_schema":
        raise wrong(f"{at}.type", "must be json_schema")
    return Output(mapping(form.get("schema"), f"{at}.schema"))


def write(ask: Ask, quirks: Quirks) -> Body:
    """The request for Anthropic. Seeds, penalties and the name of a schema are left out: it has no word for them.

    Raises:
        BadRequest: it has no word for something that the answer depends on (400).
    """
    if ask.choices > 1:
        raise wrong("choices", "must be 1: Anthropic's models give one answer at a time")
    messages, system = _messages(ask), list(ask.system)
    if ask.output is not None and ask.output.schema is None:
        # There is no mode for JSON of any shape; the callers of such modes have to ask for JSON in words as well.
        system.append(Text(_JSON_PLEASE))
    if not messages:
        # Some formats take instructions alone; here somebody must have said something.
        messages, system = _as_user(system), []
    body: Body = {"model": ask.model, "messages": messages}
    if instructions := write_parts(system, "system"):
        body["system"] = instructions[0]["text"] if _is_bare(instructions) else instructions
    if ask.tools:
        body["tools"] = [_write_tool(tool, f"tools[{n}]") for n, tool in enumerate(ask.tools)]
        if (choice := _write_choice(ask)) is not None:
            body["tool_choice"] = choice
    if ask.stop:
        body["stop_sequences"] = _write_stops(ask.stop)
    if ask.user is not None:
        body["metadata"] = {"user_id": ask.user}
    write_reasoning(ask, body, quirks.default_max_tokens)
    if ask.output is not None and ask.output.schema is not None:
        form = {"type": "json_schema", "schema": strict(ask.output.schema, "output.schema")}
        body["output_config"] = body.get("output_config", {}) | {"format": form}
    if ask.stream:
        body["stream"] = True
    return _ended(body)


def _messages(ask: Ask) -> list[Body]:
    """Turns of alternating roles, each with its blocks in the order that Anthropic asks for."""
    merged: list[Body] = []
    for turn in handed_back(ask.turns):
        content = write_parts(turn.parts, "messages")
        if not content:
            continue
        if merged and merged[-1]["role"] == turn.role:
            merged[-1]["content"] += content
        else:
            merged.append({"role": turn.role, "content": content})
    for message in merged:
        message["content"] = _ordered(message["role"], message["content"])
    return merged


def _ordered(role: str, content: list[Body]) -> list[Body]:
    """Results of tools come first in the user's turn. Thoughts lead the assistant's, and stay among themselves where
    they were when they do so already."""
    if role == "assistant" and content[0]["type"] in KINDS:
        return content
    first = ("tool_result",) if role == "user" else KINDS
    return sorted(content, key=lambda block: block["type"] not in first)


def _as_user(system: Iterable[Part]) -> list[Body]:
    content = write_parts(system, "system")
    if not content:
        raise wrong("messages", "must have at least one message with content")
    return [{"role": "user", "content": content}]


def _ended(body: Body) -> Body:
    """An answer that the request begins (the last turn is the assistant's) must not end in white space, and must hold
    no thoughts when there is to be no thinking."""
    last = body["messages"][-1]
    if last["role"] != "assistant":
        return body
    if body.get("thinking", {}).get("type") not in ("enabled", "adaptive"):
        last["content"] = [block for block in last["content"] if block["type"] not in KINDS]
    if last["content"] and last["content"][-1]["type"] == "text":
        last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()
    if not last["content"]:
        body["messages"].pop()
    if not body["messages"]:
        raise wrong("messages", "must have at least one message with content")
    return body


def _is_bare(blocks: list[Body]) -> bool:
    return len(blocks) == 1 and "cache_control" not in blocks[0]


def _write_tool(tool: Tool, at: str) -> Body:
    schema: Body = {"type": "object"} | dict(tool.parameters or {})
    written: Body = {"name": tool.name, "input_schema": schema}
    if tool.description is not None:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
        if tool.strict:
            written["input_schema"] = strict({"properties": {}} | schema, f"{at}.parameters")
    if tool.cache is not None:
        written["cache_control"] = dict(tool.cache)
    return written


def _write_choice(ask: Ask) -> Body | None:
    choice = ask.tool_choice
    if choice is None and ask.parallel_tools is None:
        return None
    written: Body = {"type": "auto" if choice is None else choice.mode}
    if choice is not None and choice.mode == "tool":
        written["name"] = choice.name
    if ask.parallel_tools is not None and written["type"] != "none":
        written["disable_parallel_tool_use"] = not ask.parallel_tools
    return written


def _write_stops(stops: tuple[str, ...]) -> list[str]:
    for index, stop in enumerate(stops):
        if not stop.strip():
            raise wrong(f"stop[{index}]", "must hold more than white space for an Anthropic model")
    return list(stops)
