"""The OpenAI wire format: requests read, answers and chunks understood, errors written.

Only what the gateway must know is read; everything else passes through as it came.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ...kernel import json
from ...kernel.errors import BackstayError, BadRequest, FieldError
from ..models import Usage

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
_MAX_NAME = 512
_MAX_TOKENS = 10_000_000
# What a picture, a sound or a file may cost in tokens cannot be seen from its bytes; this is reserved for each.
_MEDIA_TOKENS = 8_192


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion as asked for. `input_bound`: at most so many input tokens (a token has at least one byte)."""

    body: dict[str, Any]
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    choices: int
    input_bound: int


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """An embedding as asked for."""

    body: dict[str, Any]
    model: str
    input_bound: int


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`.

    Raises:
        BadRequest: not JSON, or not an object (400).
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def chat_request(body: dict[str, Any], size: int | None = None) -> ChatRequest:
    """Checks what the gateway relies on. `size`: bytes of the body when they are known.

    Raises:
        BadRequest: a field is missing or of the wrong type; the error names it (400).
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "must be a list with at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _wrong(f"messages[{index}]", "must be an object with a role")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("stream", "must be true or false")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "must be an object")
    if options is not None and not stream:
        raise _wrong("stream_options", "is allowed only when stream is true")
    limits = [_count(body, name, _MAX_TOKENS) for name in ("max_completion_tokens", "max_tokens")]
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise _wrong("tools", "must be a list")
    return ChatRequest(
        body=body,
        model=_model(body),
        stream=bool(stream),
        include_usage=bool(options and options.get("include_usage")),
        max_tokens=max((limit for limit in limits if limit is not None), default=None),
        choices=_count(body, "n", 128) or 1,
        input_bound=_bound(body, size),
    )


def embed_request(body: dict[str, Any], size: int | None = None) -> EmbedRequest:
    """Checks what the gateway relies on.

    Raises:
        BadRequest: a field is missing or of the wrong type; the error names it (400).
    """
    value = body.get("input")
    if not isinstance(value, str | list) or not value:
        raise _wrong("input", "must be a text or a list that is not empty")
    if isinstance(value, list) and not all(isinstance(item, str | list | int) for item in value):
        raise _wrong("input", "must hold texts or tokens")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise _wrong("encoding_format", "must be float or base64")
    _count(body, "dimensions", 65_536)
    return EmbedRequest(body=body, model=_model(body), input_bound=_bound(body, size))


def usage_of(answer: Mapping[str, Any]) -> Usage | None:
    """What the provider says was used; None when it says nothing that can be counted."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    read, written = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    if read == 0 and written == 0 and not _tokens(usage, "total_tokens"):
        return Usage() if "prompt_tokens" in usage else None
    # Cached tokens are counted inside prompt tokens here, reasoning inside completion tokens.
    cached = _tokens(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _tokens(usage.get("completion_tokens_details"), "reasoning_tokens")
    return Usage(read, written, min(cached, read), min(reasoning, written))


def error_of(answer: Any) -> str | None:
    """The message of an error that a provider put into an answer with status 200; None when there is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not error:
        return None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500] if message else "the provider reported an error without a message"


def error_body(error: BackstayError, usage: Mapping[str, Any] | None = None) -> bytes:
    """The error as OpenAI's clients read it."""
    content: dict[str, Any] = {
        "message": error.detail if not error.errors else f"{error.detail}: {error.errors[0].message}",
        "type": _TYPES.get(error.status, "server_error"),
        "param": error.errors[0].field if error.errors else None,
        "code": error.code,
    }
    if usage is not None:
        content["usage"] = dict(usage)
    return orjson.dumps({"error": content})


def estimate_tokens(text: str) -> int:
    """Tokens of a text when nobody counted them: four bytes each, as in ordinary English."""
    return (len(text.encode()) + 3) // 4


def text_of(messages: Any) -> str:
    """Every text in `messages`, for estimates."""
    parts: list[str] = []
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            parts.append(content)
        elif isinstance(content, list):
            parts += [str(part["text"]) for part in content if isinstance(part, dict) and "text" in part]
    return "\n".join(parts)


def _bound(body: Mapping[str, Any], size: int | None) -> int:
    if size is None:
        size = len(json.dumps(dict(body)))
    messages = body.get("messages")
    if not isinstance(messages, list) or not any(
        isinstance(message.get("content"), list) for message in messages if isinstance(message, dict)
    ):
        return size
    media, text = 0, []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, dict) and part.get("type") not in ("text", "refusal", None):
                media += 1
            else:
                text.append(part)
    rest = {key: value for key, value in body.items() if key != "messages"}
    return len(orjson.dumps([rest, text])) + media * _MEDIA_TOKENS + 16 * len(messages)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model or len(model) > _MAX_NAME or not model.isprintable():
        raise _wrong("model", "must be the name of a model, such as openai:gpt-5.2 or sim:echo")
    return model


def _count(body: Mapping[str, Any], name: str, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise _wrong(name, f"must be a whole number from 1 to {most}")
    return value


def _tokens(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else 0


def _wrong(field: str, message: str) -> BadRequest:
    return BadRequest(f"`{field}` is wrong", errors=[FieldError(field, message)])
