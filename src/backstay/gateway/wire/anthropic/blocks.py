"""Content blocks of the Messages format, both ways: of requests and of answers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import orjson

from ...dialogue import Media, Part, Refusal, Text, Thinking, ToolCall, ToolResult
from ..base import Body
from ..fields import wrong
from ..gemini.ids import pack_id, unpack_id
from ..values import flag, items, mapping, maybe_string, string
from .fields import json_text, maybe_mapping, too_deep
from .media import read_document, read_image, write_media
from .thoughts import KINDS, ORIGIN, read_thought, show_thought, write_thought

_ID = re.compile(r"[a-zA-Z0-9_-]+")


def read_content(content: Any, role: str, at: str) -> tuple[Part, ...]:
    """The parts of a message: a text, or a list of blocks."""
    if isinstance(content, str):
        return (Text(content),) if content else ()
    if not isinstance(content, list):
        raise wrong(at, "must be a text or a list of blocks")
    return tuple(part for index, block in enumerate(content) for part in _read_block(block, role, f"{at}[{index}]"))


def read_texts(content: Any, at: str) -> tuple[Text, ...]:
    """A text, or a list of text blocks."""
    if content is None or isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(_read_text(mapping(block, f"{at}[{n}]"), f"{at}[{n}]") for n, block in enumerate(items(content, at)))


def _read_block(block: Any, role: str, at: str) -> Iterator[Part]:
    block = mapping(block, at)
    kind = block.get("type")
    if kind == "tool_result":
        if role != "user":
            raise wrong(f"{at}.type", "tool_result belongs to the user's turns")
        yield _read_result(block, at)
    elif kind == "tool_use" or kind in KINDS:
        if role != "assistant":
            raise wrong(f"{at}.type", f"{kind} belongs to the assistant's turns")
        yield _read_call(block, at) if kind == "tool_use" else read_thought(block, at)
    else:
        yield from _read_plain(block, at)


def _read_plain(block: Body, at: str) -> Iterator[Text | Media]:
    match block.get("type"):
        case "text":
            yield _read_text(block, at)
        case "image":
            yield read_image(block, at)
        case "document":
            source = block.get("source")
            if isinstance(source, dict) and source.get("type") == "content":
                if title := maybe_string(block.get("title"), f"{at}.title"):
                    yield Text(title)
                yield from _read_inner(source.get("content"), f"{at}.source.content")
            else:
                yield from read_document(block, at)
        case "search_result":
            yield Text(f"{string(block.get('title'), f'{at}.title')}\n{string(block.get('source'), f'{at}.source')}")
            yield from read_texts(block.get("content"), f"{at}.content")
        case str(kind):
            raise wrong(f"{at}.type", f"{kind[:60]} is known to Anthropic's models only, and this model is not theirs")
        case _:
            raise wrong(f"{at}.type", "must be the type of a block, such as text")


def _read_text(block: Body, at: str) -> Text:
    if block.get("type") != "text":
        raise wrong(f"{at}.type", "must be text")
    return Text(string(block.get("text"), f"{at}.text"), _cache(block, at))


def _read_call(block: Body, at: str) -> ToolCall:
    call, signature = unpack_id(string(block.get("id"), f"{at}.id"))
    return ToolCall(
        id=call,
        name=string(block.get("name"), f"{at}.name"),
        arguments=json_text(mapping(block.get("input"), f"{at}.input"), f"{at}.input"),
        signature=signature,
        cache=_cache(block, at),
    )


def _read_result(block: Body, at: str) -> ToolResult:
    return ToolResult(
        call=unpack_id(string(block.get("tool_use_id"), f"{at}.tool_use_id"))[0],
        parts=tuple(_read_inner(block.get("content"), f"{at}.content")),
        error=flag(block.get("is_error"), f"{at}.is_error") or False,
        cache=_cache(block, at),
    )


def _read_inner(content: Any, at: str) -> Iterator[Text | Media]:
    if isinstance(content, str):
        yield Text(content)
        return
    for index, block in enumerate(items(content, at)):
        yield from _read_plain(mapping(block, f"{at}[{index}]"), f"{at}[{index}]")


def _cache(block: Body, at: str) -> Body | None:
    return maybe_mapping(block.get("cache_control"), f"{at}.cache_control")


def read_answer_block(block: Any) -> Part | None:
    """A block of a provider's answer; None for one that other formats have no word for, such as a web search's."""
    match block:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "thinking", "thinking": str(text)}:
            signature = block.get("signature")
            return Thinking(text, signature if isinstance(signature, str) and signature else None, origin=ORIGIN)
        case {"type": "redacted_thinking", "data": str(data)}:
            return Thinking("", data, redacted=True, origin=ORIGIN)
        case {"type": "tool_use", "id": str(call), "name": str(name)}:
            return ToolCall(call, name, orjson.dumps(block.get("input") or {}).decode())
    return None


def show_part(part: Part) -> Body | None:
    """A part of an answer for a client; None for one that says nothing. Pictures, which this format's answers cannot
    have, are told of."""
    match part:
        case Text(text) | Refusal(text):
            return show_text(text) if text else None
        case Thinking():
            return show_thought(part)
        case ToolCall():
            return show_call(shown_id(part.id, part.signature), part.name, input_of(part.arguments))
        case Media():
            return show_text(part.note)
    return None


def show_text(text: str) -> Body:
    return {"type": "text", "text": text, "citations": None}


def show_call(call: str, name: str, given: Body) -> Body:
    """`caller`: the model itself, and not a program that it wrote."""
    return {"type": "tool_use", "id": call, "name": name, "input": given, "caller": {"type": "direct"}}


def shown_id(given: str, signature: str | None) -> str:
    """The id of a call for a client, which comes back as it is: some providers know their own again. Gemini's signature
    of the call travels in it, as this format has no other place for that."""
    return pack_id(given, signature) if signature else given


def write_parts(parts: Iterable[Part], at: str) -> list[Body]:
    """The blocks of a message for Anthropic. Texts without a visible character are left out, as it refuses them."""
    return [block for part in parts if (block := _write_part(part, at)) is not None]


def _write_part(part: Part, at: str) -> Body | None:
    match part:
        case Text(text) | Refusal(text) if not text.strip():
            return None
        case Text(text, cache):
            return _cached({"type": "text", "text": text}, cache)
        case Refusal(text):
            return {"type": "text", "text": text}
        case Media():
            return _cached(write_media(part, at), part.cache)
        case Thinking():
            return write_thought(part)
        case ToolCall():
            call = {"type": "tool_use", "id": _call_id(part.id), "name": part.name, "input": input_of(part.arguments)}
            return _cached(call, part.cache)
        case ToolResult():
            return _write_result(part, at)


def _write_result(result: ToolResult, at: str) -> Body:
    block: Body = {"type": "tool_result", "tool_use_id": _call_id(result.call)}
    match write_parts(result.parts, at):
        case []:
            pass
        case [{"type": "text", "text": text, **rest}] if not rest:
            block["content"] = text
        case content:
            block["content"] = content
    if result.error:
        block["is_error"] = True
    return _cached(block, result.cache)


def _call_id(given: str) -> str:
    """`given`, or a name for it where Anthropic would refuse its characters: the same for a call and its result."""
    given, _ = unpack_id(given)
    return given if _ID.fullmatch(given) else f"toolu_{sha256(given.encode()).hexdigest()[:24]}"


def input_of(arguments: str) -> Body:
    """The arguments as an object. Text that is none, which a model wrote by mistake, is kept where the model sees it
    again and can mend it."""
    if not arguments.strip():
        return {}
    try:
        given = orjson.loads(arguments)
    except (ValueError, RecursionError):
        given = None
    return given if isinstance(given, dict) and not too_deep(given) else {"invalid_json": arguments}


def _cached(block: Body, cache: Mapping[str, Any] | None) -> Body:
    return block if cache is None else block | {"cache_control": dict(cache)}
