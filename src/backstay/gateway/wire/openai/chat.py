"""OpenAI's chat completions: what most providers speak.

Departures that are widely spoken are understood as well: `reasoning_content` (or `reasoning`) for thoughts, and
`reasoning_details` for what has to come back unmodified.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from ....kernel.errors import BackstayError
from ...dialogue import (
    Ask,
    Began,
    Media,
    Output,
    Part,
    Reasoning,
    Refusal,
    Request,
    Said,
    Stop,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from ...errors import ProviderFailed
from ...models import Usage
from .. import fields
from ..base import Body, Quirks, Reader, Writer
from ..fields import wrong
from ..gemini.ids import unpack_id
from ..pictures import handed_back
from . import errors
from .chat_stream import ChatReader, ChatWriter, shown
from .words import (
    FINISH,
    STOPS,
    details_of,
    image,
    images_of,
    media_at,
    reasoning_of,
    tool_id,
    usage_as_openai,
    usage_of,
)

_SEARCHING = re.compile(r"-search-(preview|api)\b")  # models that search whether they are told to or not
_SHOWN = ("image", "audio")  # what a user may show
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class OpenAIChat:
    """`/v1/chat/completions`."""

    name = "openai-chat"
    end_mark = b"data: [DONE]\n\n"

    def check(self, body: Body, size: int | None = None) -> Request:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise wrong("messages", "must be a list with at least one message")
        for index, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise wrong(f"messages[{index}]", "must be an object with a role")
        stream = fields.flag(body, "stream") or False
        options = fields.mapping(body, "stream_options")
        if options is not None and not stream:
            raise wrong("stream_options", "is allowed only when stream is true")
        limits = [fields.count(body, name) for name in ("max_completion_tokens", "max_tokens")]
        tools = body.get("tools")
        if tools is not None and not isinstance(tools, list):
            raise wrong("tools", "must be a list")
        bound, media = _bound(body, messages, size)
        metadata, name = body.get("metadata"), fields.model(body)
        # Searching models do it once for each answer, and do not say so.
        searches = int(body.get("web_search_options") is not None or bool(_SEARCHING.search(name)))
        return Request(
            model=name,
            stream=stream,
            include_usage=bool(options and options.get("include_usage")),
            max_tokens=max((limit for limit in limits if limit is not None), default=None),
            choices=fields.count(body, "n", fields.MAX_CHOICES) or 1,
            input_bound=bound,
            turns=len(messages),
            tools=len(tools or ()),
            media=media,
            reasoning=body.get("reasoning_effort") not in (None, "none", "minimal"),
            web_searches=searches,
            searches_untold=searches,
            user=fields.user(body),
            metadata=metadata if isinstance(metadata, dict) else {},
        )

    def read(self, body: Body) -> Ask:
        system: list[Text] = []
        turns: list[Turn] = []
        for index, message in enumerate(fields.objects(body, "messages")):
            _read_message(message, f"messages[{index}].", system, turns)
        effort = fields.text(body, "reasoning_effort")
        return Ask(
            model=fields.model(body),
            turns=tuple(turns),
            system=tuple(system),
            tools=tuple(_read_tools(body)),
            tool_choice=_read_tool_choice(body.get("tool_choice")),
            parallel_tools=fields.flag(body, "parallel_tool_calls"),
            max_tokens=fields.count(body, "max_completion_tokens") or fields.count(body, "max_tokens"),
            temperature=fields.number(body, "temperature"),
            top_p=fields.number(body, "top_p"),
            top_k=fields.count(body, "top_k"),
            stop=_read_stop(body.get("stop")),
            seed=fields.count(body, "seed", 2**63 - 1, -(2**63)),
            presence_penalty=fields.number(body, "presence_penalty"),
            frequency_penalty=fields.number(body, "frequency_penalty"),
            output=_read_output(fields.mapping(body, "response_format")),
            reasoning=Reasoning(effort=effort) if effort else None,
            user=fields.text(body, "user"),
            choices=fields.count(body, "n", fields.MAX_CHOICES) or 1,
            stream=fields.flag(body, "stream") or False,
        )

    def write(self, ask: Ask, quirks: Quirks) -> Body:
        body: Body = {"model": ask.model, "messages": list(_write_messages(ask, quirks))}
        if ask.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if ask.tools:
            body["tools"] = [_write_tool(tool) for tool in ask.tools]
            if ask.tool_choice is not None:
                body["tool_choice"] = _write_tool_choice(ask.tool_choice)
            if ask.parallel_tools is not None:
                body["parallel_tool_calls"] = ask.parallel_tools
        if ask.output is not None:
            body["response_format"] = _write_output(ask.output)
        if ask.reasoning is not None and (effort := _effort(ask.reasoning)):
            body["reasoning_effort"] = effort
        plain = {
            quirks.max_tokens_field: ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "stop": list(ask.stop) or None,
            "seed": ask.seed,
            "presence_penalty": ask.presence_penalty,
            "frequency_penalty": ask.frequency_penalty,
            "user": ask.user,
            "n": ask.choices if ask.choices > 1 else None,
        }
        return body | {key: value for key, value in plain.items() if value is not None}

    def native(self, body: Body, model: str) -> Body:
        return {**body, "model": model}

    def read_answer(self, body: Body) -> Said:
        choices = body.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            raise ProviderFailed("the provider's answer has no message")
        created = body.get("created")
        return Said(
            id=str(body.get("id") or ""),
            model=str(body.get("model") or ""),
            parts=tuple(_said_parts(message)),
            stop=STOPS.get(choice.get("finish_reason"), Stop.END),
            usage=self.usage_of(body),
            created=created if isinstance(created, int) else 0,
        )

    def write_answer(self, said: Said, request: Request | None = None) -> Body:
        answer: Body = {
            "id": said.id,
            "object": "chat.completion",
            "created": said.created or int(time.time()),
            "model": said.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"refusal": None, "annotations": [], **_answered(said.parts)},
                    "logprobs": None,
                    "finish_reason": FINISH.get(said.stop) if said.stop else None,
                }
            ],
        }
        if said.usage is not None:
            answer["usage"] = usage_as_openai(said.usage)
        return answer

    def usage_of(self, body: Mapping[str, Any]) -> Usage | None:
        return usage_of(body)

    def error_of(self, body: Any) -> str | None:
        return errors.error_of(body)

    def status_of(self, body: Any) -> int | None:
        return errors.status_of(body)

    def reader(self) -> Reader:
        return ChatReader()

    def writer(self, request: Request) -> Writer:
        return ChatWriter(request.include_usage)

    def relay(self, reader: Reader, data: bytes, request: Request) -> bytes | None:
        return shown(reader, data, request.include_usage)

    def missing(self, reader: Reader, said: Said, request: Request) -> list[Body]:
        """The usage that the client asked for, where the provider did not send it."""
        if not request.include_usage or reader.used:
            return []
        writer = ChatWriter(True)
        writer.feed([Began(said.id, said.model, created=said.created)])
        return writer.end(said.usage or Usage())

    def frame(self, event: Body) -> bytes:
        return b"data: " + orjson.dumps(event) + b"\n\n"

    def ping(self) -> bytes:
        return b": ping\n\n"

    def error_body(self, error: BackstayError, request_id: str | None = None) -> bytes:
        return errors.error_body(error)

    def error_event(self, error: BackstayError, usage: Usage | None = None) -> bytes:
        return b"data: " + errors.error_body(error, usage) + b"\n\n"


def _bound(body: Body, messages: list[Body], size: int | None) -> tuple[int, int]:
    """At most so many input tokens, and how many pictures and the like are in it."""
    if not any(isinstance(message.get("content"), list) or message.get("images") for message in messages):
        return (fields.size_of(body) if size is None else size), 0
    media, kept = 0, []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, dict) and part.get("type") not in ("text", "refusal", None):
                media += 1
            else:
                kept.append(part)
        images = message.get("images")
        media += len(images) if isinstance(images, list) else 0
        kept.append({key: value for key, value in message.items() if key not in ("content", "images")})
    rest = {key: value for key, value in body.items() if key != "messages"}
    return fields.size_of([rest, kept]) + media * fields.MEDIA_TOKENS + 16 * len(messages), media


def _read_message(message: Body, at: str, system: list[Text], turns: list[Turn]) -> None:
    role = fields.needed(message, "role", at)
    content = message.get("content")
    if role not in _ROLES:
        raise wrong(f"{at}role", f"must be one of {', '.join(_ROLES)}")
    if role in ("system", "developer"):
        system += [part for part in _read_content(content, at) if isinstance(part, Text)]
    elif role in ("tool", "function"):
        call = message.get("tool_call_id") or message.get("name")
        if not isinstance(call, str):
            raise wrong(f"{at}tool_call_id", "must name the call that this answers")
        given = tuple(part for part in _read_content(content, at) if isinstance(part, Text | Media))
        turns.append(Turn("user", (ToolResult(call, given, fields.text(message, "name", at)),)))
    elif role == "user":
        turns.append(Turn("user", tuple(_read_content(content, at))))
    else:
        turns.append(Turn("assistant", tuple(_read_assistant(message, at))))


def _read_assistant(message: Body, at: str) -> Iterator[Part]:
    yield from reasoning_of(message)
    yield from _read_content(message.get("content"), at)
    yield from images_of(message)
    if refusal := fields.text(message, "refusal", at):
        yield Refusal(refusal)
    for index, call in enumerate(fields.objects(message, "tool_calls", at)):
        where = f"{at}tool_calls[{index}]."
        function = fields.mapping(call, "function", where)
        if function is None:
            raise wrong(f"{where}function", "must be an object; other kinds of call cannot be given to this provider")
        name = fields.needed(function, "name", f"{where}function.")
        arguments = fields.text(function, "arguments", f"{where}function.") or "{}"
        yield ToolCall(fields.needed(call, "id", where), name, arguments)


def _read_content(content: Any, at: str) -> Iterator[Part]:
    if content is None:
        return
    if isinstance(content, str):
        if content:
            yield Text(content)
        return
    for index, part in enumerate(fields.objects({"content": content}, "content", at)):
        yield _read_part(part, f"{at}content[{index}].")


def _read_part(part: Body, at: str) -> Part:
    kind = part.get("type")
    cache = fields.mapping(part, "cache_control", at)
    if kind in ("text", None):
        return Text(fields.needed(part, "text", at), cache)
    if kind == "refusal":
        return Refusal(fields.needed(part, "refusal", at))
    given = part.get(str(kind))
    if kind == "image_url":
        url = given if isinstance(given, str) else given.get("url") if isinstance(given, dict) else None
        if not isinstance(url, str):
            raise wrong(f"{at}image_url.url", "must be a text")
        detail = given.get("detail") if isinstance(given, dict) else None
        return media_at(url, "image", None, detail if isinstance(detail, str) else None, cache)
    if not isinstance(given, dict):
        raise wrong(f"{at}type", "must be text, image_url, input_audio, file or refusal")
    if kind == "input_audio":
        form = fields.needed(given, "format", f"{at}input_audio.")
        return Media("audio", f"audio/{form}", data=fields.needed(given, "data", f"{at}input_audio."), cache=cache)
    if kind == "file":
        if isinstance(given.get("file_id"), str):
            return Media("document", file=given["file_id"], cache=cache)
        name = fields.text(given, "filename", f"{at}file.")
        return media_at(fields.needed(given, "file_data", f"{at}file."), "document", name, None, cache)
    raise wrong(f"{at}type", "must be text, image_url, input_audio, file or refusal")


def _read_tools(body: Body) -> Iterator[Tool]:
    for index, tool in enumerate(fields.objects(body, "tools")):
        at = f"tools[{index}]."
        function = fields.mapping(tool, "function", at)
        if function is None:
            raise wrong(f"{at}type", "must be function; other kinds of tool cannot be given to this provider")
        yield Tool(
            fields.needed(function, "name", f"{at}function."),
            fields.text(function, "description", f"{at}function."),
            fields.mapping(function, "parameters", f"{at}function."),
            fields.flag(function, "strict", f"{at}function."),
            fields.mapping(tool, "cache_control", at),
        )


def _read_tool_choice(given: Any) -> ToolChoice | None:
    if given is None:
        return None
    if given in ("auto", "none"):
        return ToolChoice(given)
    if given == "required":
        return ToolChoice("any")
    function = given.get("function") if isinstance(given, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise wrong("tool_choice", "must be auto, none, required, or name a function")
    return ToolChoice("tool", name)


def _read_stop(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise wrong("stop", "must be a text or a list of texts")
    return tuple(stops)


def _read_output(given: Body | None) -> Output | None:
    kind = given.get("type") if given else None
    if given is None or kind in (None, "text"):
        return None
    if kind == "json_object":
        return Output()
    schema = fields.mapping(given, "json_schema", "response_format.")
    if kind != "json_schema" or schema is None:
        raise wrong("response_format.type", "must be text, json_object or json_schema")
    at = "response_format.json_schema."
    return Output(
        fields.mapping(schema, "schema", at) or {}, fields.text(schema, "name", at), fields.flag(schema, "strict", at)
    )


def _write_messages(ask: Ask, quirks: Quirks) -> Iterator[Body]:
    if ask.system:
        content = "\n\n".join(part.text for part in ask.system)
        yield {"role": "developer" if quirks.developer_role else "system", "content": content}
    for turn in handed_back(ask.turns, _SHOWN):
        if turn.role == "assistant":
            yield write_message(turn.parts, _plain_id)
        else:
            yield from _write_user(turn.parts)


def _write_user(parts: Iterable[Part]) -> Iterator[Body]:
    """Results of tools first: they answer the calls just before. A tool's pictures follow as the user's."""
    rest: list[Part] = []
    for part in parts:
        if isinstance(part, ToolResult):
            told = "\n".join(inner.text for inner in part.parts if isinstance(inner, Text))
            yield {"role": "tool", "tool_call_id": unpack_id(part.call)[0], "content": told}
            rest += [inner for inner in part.parts if isinstance(inner, Media)]
        else:
            rest.append(part)
    if len(rest) == 1 and isinstance(rest[0], Text):
        yield {"role": "user", "content": rest[0].text}
    elif rest:
        yield {"role": "user", "content": [_write_part(part) for part in rest if isinstance(part, Text | Media)]}


def _write_part(part: Text | Media) -> Body:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    data = part.data and f"data:{part.type or 'application/octet-stream'};base64,{part.data}"
    if part.kind == "image" and (part.url or data):
        return {"type": "image_url", "image_url": _with({"url": part.url or data}, detail=part.detail)}
    if part.kind == "audio" and part.data:
        form = (part.type or "audio/wav").partition("/")[2]
        form = {"mpeg": "mp3", "x-wav": "wav"}.get(form, form)
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": form}}
    if part.kind == "document" and (part.file or data):
        given = {"file_id": part.file} if part.file else {"file_data": data, "filename": part.name or "document"}
        return {"type": "file", "file": given}
    raise wrong("messages", f"a {part.kind} given in this way cannot be passed to a provider of the OpenAI format")


def _plain_id(id: str, signature: str | None) -> str:
    """The id for a provider, which may bound its length."""
    return unpack_id(id)[0]


def write_message(parts: Iterable[Part], named: Callable[[str, str | None], str] = tool_id) -> Body:
    """An assistant's message; `named` makes the id of a call of its id and signature."""
    parts = tuple(parts)
    said = "".join(part.text for part in parts if isinstance(part, Text))
    message: Body = {"role": "assistant", "content": said or None}
    if refusal := "".join(part.text for part in parts if isinstance(part, Refusal)):
        message["refusal"] = refusal
    calls = [
        {
            "id": named(part.id, part.signature),
            "type": "function",
            "function": {"name": part.name, "arguments": part.arguments},
        }
        for part in parts
        if isinstance(part, ToolCall)
    ]
    if calls:
        message["tool_calls"] = calls
    thoughts = [part for part in parts if isinstance(part, Thinking)]
    if told := "".join(part.text for part in thoughts if not part.redacted):
        message["reasoning_content"] = told
    if details := details_of(thoughts):
        message["reasoning_details"] = details
    return message


def _answered(parts: Iterable[Part]) -> Body:
    """The message of an answer: with its pictures, and a note for what has no place in it."""
    images: list[Body] = []
    told: list[Part] = []
    for part in parts:
        if isinstance(part, Media) and (found := image(part, len(images))) is not None:
            images.append(found)
        else:
            told.append(Text(part.note) if isinstance(part, Media) else part)
    message = write_message(told)
    return message | {"images": images} if images else message


def _write_tool(tool: Tool) -> Body:
    function = _with({"name": tool.name}, description=tool.description, parameters=tool.parameters, strict=tool.strict)
    return {"type": "function", "function": function}


def _write_tool_choice(choice: ToolChoice) -> Any:
    if choice.mode == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.mode == "any" else choice.mode


def _write_output(output: Output) -> Body:
    if output.schema is None:
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": _with({"name": output.name or "answer", "schema": output.schema}, strict=output.strict),
    }


def _effort(reasoning: Reasoning) -> str | None:
    """A budget in tokens has no place in this format; these are the efforts that think about as long."""
    if reasoning.effort or reasoning.budget is None:
        return reasoning.effort
    if reasoning.budget < 0:
        return None  # the model decides
    steps = ((0, "none"), (1_024, "low"), (8_192, "medium"))
    return next((effort for most, effort in steps if reasoning.budget <= most), "high")


def _said_parts(message: Body) -> Iterator[Part]:
    yield from reasoning_of(message)
    content = message.get("content")
    if isinstance(content, str) and content:
        yield Text(content)
    yield from images_of(message)
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        yield Refusal(message["refusal"])
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield ToolCall(str(call.get("id") or ""), str(function.get("name")), str(function.get("arguments") or "{}"))


def _with(body: Body, **more: Any) -> Body:
    return body | {key: value for key, value in more.items() if value is not None}
