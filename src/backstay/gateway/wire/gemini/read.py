"""A Gemini client's request: what the gateway must know of it, and the whole of it in no one's words."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import orjson

from ...dialogue import (
    SEARCHES,
    Ask,
    Media,
    Output,
    Part,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from ..fields import wrong
from . import schema as schemas
from .fields import Fields
from .ids import make_id, unseal

_MAX_NAME = 512
_MAX_TOKENS = 10_000_000
_MAX_CHOICES = 128
# What a picture, a sound or a file may cost in tokens cannot be seen from its bytes. This is reserved for each, and a
# share of the bytes for what grows with time or pages.
_MEDIA_TOKENS = 8_192
_MEDIA_BYTES_PER_TOKEN = 16
_GROWING = ("audio/", "video/", "application/pdf")
# Parts that only a Gemini model can read.
_OWN_PARTS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse", "audioTranscription")
_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse", *_OWN_PARTS)
_GOOGLE_FILE = ("https://generativelanguage.googleapis.com/", "gs://", "files/")
_SEARCH = ("googleSearch", "googleSearchRetrieval")
_MODES = ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED")


def check(body: Mapping[str, Any], size: int | None = None) -> Request:
    """What the pipeline relies on, and nothing more.

    Raises:
        BadRequest: a field is missing or of the wrong type; the error names it (400).
    """
    fields = Fields(body)
    contents = _contents(fields)
    config = fields.object("generationConfig") or Fields({}, "generationConfig")
    thinking = config.object("thinkingConfig")
    tools = sum(len(tool.items("functionDeclarations")) or 1 for tool in fields.objects("tools"))
    media, carried, growing = _weigh(contents)
    labels = fields.value("labels")
    searching = any(tool.value(name) is not None for tool in fields.objects("tools") for name in _SEARCH)
    return Request(
        model=model_of(fields),
        stream=bool(fields.truth("stream")),
        max_tokens=config.whole("maxOutputTokens", 1, _MAX_TOKENS),
        choices=config.whole("candidateCount", 1, _MAX_CHOICES) or 1,
        input_bound=max(0, size_of(body, size) - carried) + media * _MEDIA_TOKENS + growing // _MEDIA_BYTES_PER_TOKEN,
        turns=len(contents),
        tools=tools,
        media=media,
        reasoning=thinking is not None and thinking.value("thinkingBudget") not in (0, "0"),
        web_searches=SEARCHES if searching else 0,
        searches_freely=searching,
        metadata=labels if isinstance(labels, dict) else {},
    )


def read(body: Mapping[str, Any]) -> Ask:
    """The request in no one's words.

    Raises:
        BadRequest: a field cannot be understood, or is for Google's own services alone; the error names it (400).
    """
    fields = Fields(body)
    if fields.text("cachedContent"):
        raise fields.wrong("cachedContent", "is kept by Google and cannot be given to a model of another provider")
    config = fields.object("generationConfig") or Fields({}, "generationConfig")
    tools, choice = _tools(fields)
    return Ask(
        model=model_of(fields),
        turns=_Conversation().read(_contents(fields)),
        system=_system(fields),
        tools=tools,
        tool_choice=choice,
        max_tokens=config.whole("maxOutputTokens", 1, _MAX_TOKENS),
        temperature=config.number("temperature"),
        top_p=config.number("topP"),
        top_k=config.whole("topK", 0, 2**31),
        stop=config.texts("stopSequences"),
        seed=config.whole("seed", -(2**31), 2**31),
        presence_penalty=config.number("presencePenalty"),
        frequency_penalty=config.number("frequencyPenalty"),
        output=_output(config),
        reasoning=_reasoning(config),
        choices=config.whole("candidateCount", 1, _MAX_CHOICES) or 1,
        stream=bool(fields.truth("stream")),
    )


def model_of(fields: Fields) -> str:
    """The model, which stands in the path and which the front put into the body."""
    model = fields.body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= _MAX_NAME or not model.isprintable():
        raise wrong("model", "must be the name of a model, such as gemini:gemini-3-flash or sim:echo")
    return model.removeprefix("models/") or model


def size_of(body: Mapping[str, Any], size: int | None) -> int:
    return len(compact(body, "body")) if size is None else size


def compact(value: Any, at: str) -> str:
    """`value` as JSON text."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise wrong(at, "is nested too deeply, or holds a number or text that JSON has not") from None


def kind_of(mime: str | None) -> Literal["image", "audio", "video", "document"]:
    kind = (mime or "").partition("/")[0]
    return cast('Literal["image", "audio", "video"]', kind) if kind in ("image", "audio", "video") else "document"


def _contents(fields: Fields) -> list[Fields]:
    contents = fields.objects("contents")
    if not contents:
        raise wrong("contents", "must be a list with at least one content")
    return contents


def _weigh(contents: Iterable[Fields]) -> tuple[int, int, int]:
    """How many media there are, how many of the body's bytes are theirs, and how many are of the kinds that grow."""
    media = carried = growing = 0
    for content in contents:
        for part in content.objects("parts"):
            inline = part.object("inlineData")
            media += int(inline is not None or part.object("fileData") is not None)
            if inline is None:
                continue
            kind, length = inline.text("mimeType") or "", len(inline.text("data") or "")
            carried += length if kind.startswith(("image/", *_GROWING)) else 0
            growing += length if kind.startswith(_GROWING) else 0
    return media, carried, growing


def _system(fields: Fields) -> tuple[Text, ...]:
    content = fields.object("systemInstruction")
    if content is None:
        return ()
    texts = []
    for part in content.objects("parts"):
        text = part.text("text")
        if text is None:
            raise wrong(part.at, "must have a text; a model of another provider takes no other instruction")
        texts.append(Text(text))
    return tuple(texts)


class _Conversation:
    """Reads the contents in order and finds for each function response the call that it answers: by id, else by name
    and order, since older models and many clients have no ids."""

    def __init__(self) -> None:
        self._open: list[ToolCall] = []
        self._known: set[str] = set()
        self._made = 0

    def read(self, contents: Iterable[Fields]) -> tuple[Turn, ...]:
        turns: list[Turn] = []
        for content in contents:
            role: Literal["user", "assistant"] = "assistant" if _role(content) == "model" else "user"
            parts = self._parts(content, role)
            if not parts:
                continue
            if turns and turns[-1].role == role:
                # A client that follows a stream keeps each of its pieces as a content of its own.
                parts = [*turns.pop().parts, *parts]
            turns.append(Turn(role, tuple(_joined(parts) if role == "assistant" else parts)))
        if not turns:
            raise wrong("contents", "must hold a part that says something")
        return tuple(turns)

    def _parts(self, content: Fields, role: str) -> list[Part]:
        parts: list[Part] = []
        for part in content.objects("parts"):
            match _data_of(part):
                case "text":
                    parts += _spoken(part) if role == "assistant" else [Text(part.text("text") or "")]
                case "inlineData":
                    parts.append(_inline(part))
                case "fileData":
                    parts.append(_file(part))
                case "functionCall":
                    if role != "assistant":
                        raise part.wrong("functionCall", "stands in a content whose role is not model")
                    parts.append(self._call(part))
                case "functionResponse":
                    if role != "user":
                        raise part.wrong("functionResponse", "stands in a content whose role is not user")
                    parts.append(self._result(part))
                case own:
                    raise part.wrong(own, "can be read by a Gemini model only")
        return parts

    def _call(self, part: Fields) -> ToolCall:
        call = part.required("functionCall")
        name = _name(call)
        args = call.object("args")
        id = call.text("id")
        if not id:
            # The same at every turn of the conversation, so that prompt caches stay warm.
            id = make_id("history", 0, self._made)
            self._made += 1
        while id in self._known:
            id = make_id(id, 1, self._made)
        self._known.add(id)
        arguments = compact(args.body, args.at) if args is not None else "{}"
        found = ToolCall(id, name, arguments, part.text("thoughtSignature"))
        self._open.append(found)
        return found

    def _result(self, part: Fields) -> ToolResult:
        result = part.required("functionResponse")
        name, id = _name(result), result.text("id")
        call = next((call for call in self._open if call.id == id), None) or next(
            (call for call in self._open if call.name == name), None
        )
        if call is None:
            raise wrong(result.at, f"answers no function call before it that is named {name!r} and has no answer yet")
        self._open.remove(call)
        response = result.object("response")
        text, error = _told(response.body if response is not None else {}, result.at)
        parts: list[Text | Media] = [Text(text)]
        for inner in result.objects("parts"):
            parts.append(_inline(inner) if inner.object("inlineData") is not None else _file(inner))
        return ToolResult(call.id, tuple(parts), call.name, error)


def _role(content: Fields) -> str:
    role = content.text("role") or "user"
    if role not in ("user", "model", "function", "tool"):
        raise content.wrong("role", "must be user or model")
    return role


def _name(fields: Fields) -> str:
    name = fields.text("name")
    if not name:
        raise fields.wrong("name", "must be the name of a function")
    return name


def _data_of(part: Fields) -> str:
    found = [name for name in _DATA if part.value(name) is not None]
    if len(found) > 1:
        raise wrong(part.at, f"must have only one of {found[0]} and {found[1]}")
    if not found and part.value("thoughtSignature") is None:
        raise wrong(part.at, f"must have one of {', '.join(_DATA[:5])}")
    return found[0] if found else "text"


def _spoken(part: Fields) -> list[Part]:
    text, signature = part.text("text") or "", part.text("thoughtSignature")
    thought = part.truth("thought")
    if signature is None:
        return [Thinking(text, origin="gemini") if thought else Text(text)] if text else []
    opaque, origin, redacted = unseal(signature)
    if thought:
        return [Thinking(text, opaque, redacted, origin)]
    signed = Thinking("", opaque, redacted, origin)
    return [Text(text), signed] if text else [signed]


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Texts and thoughts that were cut into pieces on their way, whole again: a signature is for a whole thought."""
    whole: list[Part] = []
    for part in parts:
        last = whole[-1] if whole else None
        if isinstance(part, Text) and isinstance(last, Text):
            whole[-1] = Text(last.text + part.text)
        elif isinstance(part, Thinking) and isinstance(last, Thinking) and last.signature is None and not part.redacted:
            whole[-1] = replace(part, text=last.text + part.text)
        else:
            whole.append(part)
    return whole


def _inline(part: Fields) -> Media:
    inline = part.required("inlineData")
    mime, data = inline.text("mimeType"), inline.text("data")
    if not mime or not data:
        raise part.wrong("inlineData", "must have data and its mimeType")
    return Media(kind_of(mime), mime, data=data, name=inline.text("displayName"))


def _file(part: Fields) -> Media:
    file = part.required("fileData")
    uri, mime, name = file.text("fileUri"), file.text("mimeType"), file.text("displayName")
    if not uri:
        raise file.wrong("fileUri", "must be the address of a file")
    if uri.startswith(_GOOGLE_FILE):
        return Media(kind_of(mime), mime, file=uri, name=name)
    return Media(kind_of(mime), mime, url=uri, name=name)


def _told(response: Mapping[str, Any], at: str) -> tuple[str, bool]:
    """What a function gave, as text: Google asks for it under `output`, or `error`, or as the whole object."""
    for name in ("output", "error"):
        if set(response) == {name}:
            value = response[name]
            return (value if isinstance(value, str) else compact(value, at)), name == "error"
    return compact(response, at), False


def _tools(fields: Fields) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    tools: list[Tool] = []
    for tool in fields.objects("tools"):
        declared = tool.objects("functionDeclarations")
        for name, value in tool.body.items():
            if name not in ("functionDeclarations", "function_declarations") and value is not None:
                raise tool.wrong(name, "is a tool of Google's own, which a model of another provider cannot use")
        tools += [_tool(function) for function in declared]
    config = fields.object("toolConfig")
    calling = config.object("functionCallingConfig") if config is not None else None
    if calling is None:
        return tuple(tools), None
    mode = (calling.text("mode") or "AUTO").upper()
    if mode not in _MODES:
        raise calling.wrong("mode", f"must be one of {', '.join(_MODES[:4])}")
    allowed = calling.texts("allowedFunctionNames")
    if mode == "ANY" and len(allowed) == 1:
        return tuple(tools), ToolChoice("tool", allowed[0])
    if allowed and mode in ("ANY", "VALIDATED"):
        # No other format can name several; the others are as if they were not there.
        tools = [tool for tool in tools if tool.name in allowed]
    if mode == "VALIDATED":
        tools = [replace(tool, strict=True) for tool in tools]
    return tuple(tools), ToolChoice("none" if mode == "NONE" else "any" if mode == "ANY" else "auto")


def _tool(function: Fields) -> Tool:
    schema, dialect = function.object("parametersJsonSchema"), function.object("parameters")
    if schema is not None and dialect is not None:
        raise function.wrong("parameters", "and parametersJsonSchema exclude each other")
    parameters: Mapping[str, Any] | None = schema.body if schema is not None else None
    if dialect is not None:
        parameters = schemas.from_google(dialect.body, dialect.at)
    return Tool(_name(function), function.text("description"), parameters)


def _output(config: Fields) -> Output | None:
    for modality in config.texts("responseModalities"):
        if modality.upper() not in ("TEXT", "MODALITY_UNSPECIFIED"):
            raise config.wrong("responseModalities", "can be other than TEXT for a Gemini model only")
    mime = config.text("responseMimeType") or "text/plain"
    if mime not in ("text/plain", "application/json"):
        raise config.wrong("responseMimeType", "must be text/plain or application/json for a model of another provider")
    if mime == "text/plain":
        return None
    schema = config.object("responseJsonSchema") or config.object("_responseJsonSchema")
    if schema is not None:
        return Output(schema.body)
    dialect = config.object("responseSchema")
    return Output(schemas.from_google(dialect.body, dialect.at) if dialect is not None else None)


def _reasoning(config: Fields) -> Reasoning | None:
    thinking = config.object("thinkingConfig")
    if thinking is None:
        return None
    level = (thinking.text("thinkingLevel") or "").lower()
    budget = thinking.whole("thinkingBudget", -1, _MAX_TOKENS)
    effort = level if level in ("minimal", "low", "medium", "high") else None
    # -1 leaves it to the model.
    return Reasoning(effort, None if budget == -1 else budget, thinking.truth("includeThoughts"))
