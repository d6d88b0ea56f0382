"""The format as the pipeline sees it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from ....kernel.errors import BackstayError
from ...dialogue import SEARCHES, Ask, Refusal, Request, Said, Stop, ToolCall
from ...errors import ProviderFailed
from ...models import Usage
from ..base import Body, Quirks, Reader, Wire, Writer
from ..fields import wrong
from ..values import flag, items, mapping, maybe_string, string
from . import request as requests
from .blocks import read_answer_block, show_part
from .fields import json_text, maybe_mapping, whole
from .reader import MessageReader, error_of, error_type_of, refusal_of
from .request import MAX_TOKENS
from .size import estimate, input_bound, media_count
from .thoughts import without_foreign_thoughts
from .usage import message_usage, read_stop, read_usage, write_stop, write_usage
from .writer import MessageWriter

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES = {kind: status for status, kind in _ERRORS.items()} | {"api_error": 500}
_MAX_NAME = 512
_MOST_SEARCHES = 1_000_000  # more than any answer has
_ROLES = ("user", "assistant", "system")
_THINKING = ("enabled", "adaptive")
_PING = b'event: ping\ndata: {"type": "ping"}\n\n'


class Anthropic:
    """A Wire; see `base`. It keeps nothing."""

    name: ClassVar[str] = "anthropic"
    # `message_stop` is the last event, and an event like any other.
    end_mark: ClassVar[bytes] = b""

    def check(self, body: Body, size: int | None = None) -> Request:
        """As `Wire.check`; `max_tokens` must be given, as Anthropic asks for it."""
        request = self._check(body, size)
        if request.max_tokens is None:
            raise wrong("max_tokens", "is required: at most so many tokens may the answer have")
        return request

    def check_count(self, body: Body, size: int | None = None) -> Request:
        """As `check`, for a request whose tokens are only to be counted."""
        return self._check(body, size)

    def count(self, body: Body) -> Body:
        """For models whose provider cannot count: four bytes of text are taken for a token, and 1,600 tokens for a
        picture."""
        self._check(body, 0)
        return {"input_tokens": estimate(body)}

    def _check(self, body: Body, size: int | None) -> Request:
        _check_messages(body.get("messages"))
        if not isinstance(body.get("system"), str | list | None):
            raise wrong("system", "must be a text or a list of blocks")
        for index, tool in enumerate(tools := items(body.get("tools"), "tools")):
            mapping(tool, f"tools[{index}]")
        items(body.get("stop_sequences"), "stop_sequences")
        thinking = maybe_mapping(body.get("thinking"), "thinking") or {}
        metadata = maybe_mapping(body.get("metadata"), "metadata") or {}
        if size is None:
            size = len(json_text(body, "messages"))
        return Request(
            model=_model(body.get("model")),
            stream=flag(body.get("stream"), "stream") or False,
            max_tokens=whole(body.get("max_tokens"), "max_tokens", 0, MAX_TOKENS),
            input_bound=input_bound(body, size),
            turns=len(body["messages"]),
            tools=len(tools),
            media=media_count(body),
            reasoning=thinking.get("type") in _THINKING,
            web_searches=sum(_searches(tool) for tool in tools),
            user=maybe_string(metadata.get("user_id"), "metadata.user_id") or None,
            metadata=metadata,
        )

    def read(self, body: Body) -> Ask:
        return requests.read(body)

    def write(self, ask: Ask, quirks: Quirks) -> Body:
        return requests.write(ask, quirks)

    def native(self, body: Body, model: str) -> Body:
        native = {**without_foreign_thoughts(body), "model": model}
        if any(map(_searches, tools := items(body.get("tools"), "tools"))):
            native["tools"] = [_limited(tool) for tool in tools]
        return native

    def read_answer(self, body: Body) -> Said:
        if (message := self.error_of(body)) is not None:
            raise ProviderFailed(f"the provider reported an error in its answer: {message}")
        name, model, content = body.get("id"), body.get("model"), body.get("content")
        if not isinstance(content, list):
            raise ProviderFailed("the provider's answer has no content")
        try:
            parts = [part for block in content if (part := read_answer_block(block)) is not None]
        except TypeError:
            raise ProviderFailed("the provider's answer is nested too deeply") from None
        if (words := refusal_of(body)) is not None:
            parts.append(Refusal(words))
        sequence = body.get("stop_sequence")
        return Said(
            id=name if isinstance(name, str) else "",
            model=model if isinstance(model, str) else "",
            parts=tuple(parts),
            stop=read_stop(body.get("stop_reason")),
            usage=self.usage_of(body),
            sequence=sequence if isinstance(sequence, str) else None,
        )

    def write_answer(self, said: Said, request: Request | None = None) -> Body:
        tools = any(isinstance(part, ToolCall) for part in said.parts)
        refused = any(isinstance(part, Refusal) for part in said.parts)
        return {
            "id": said.id,
            "type": "message",
            "role": "assistant",
            "model": said.model,
            "content": [block for part in said.parts if (block := show_part(part)) is not None],
            "stop_reason": write_stop(said.stop, tools=tools, refused=refused),
            "stop_sequence": said.sequence if said.stop is Stop.SEQUENCE else None,
            "stop_details": None,
            "container": None,
            "usage": message_usage(said.usage or Usage()),
        }

    def usage_of(self, body: Mapping[str, Any]) -> Usage | None:
        return read_usage(body.get("usage"))

    def error_of(self, body: Any) -> str | None:
        return error_of(body)

    def status_of(self, body: Any) -> int | None:
        return _STATUSES.get(error_type_of(body) or "")

    def reader(self) -> Reader:
        return MessageReader()

    def writer(self, request: Request) -> Writer:
        return MessageWriter(request)

    def relay(self, reader: Reader, data: bytes, request: Request) -> bytes | None:
        body = reader.body
        if body is None:
            return None
        # JSON that is laid out over several lines came as several lines of data, and leaves so.
        if b"\n" in data:
            data = data.replace(b"\n", b"\ndata: ")
        return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), data)

    def missing(self, reader: Reader, said: Said, request: Request) -> list[Body]:
        """The last event, where the provider left it out of a stream that was complete without it."""
        return [] if reader.done else [{"type": "message_stop"}]

    def frame(self, event: Body) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))

    def ping(self) -> bytes:
        return _PING

    def error_body(self, error: BackstayError, request_id: str | None = None) -> bytes:
        body = _told(error)
        if request_id is not None:
            body["request_id"] = request_id
        return orjson.dumps(body)

    def error_event(self, error: BackstayError, usage: Usage | None = None) -> bytes:
        body = _told(error)
        if usage is not None:
            body["usage"] = write_usage(usage)
        return self.frame(body)


WIRE: Wire = Anthropic()


def _check_messages(value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise wrong("messages", "must be a list with at least one message")
    for index, message in enumerate(value):
        at = f"messages[{index}]"
        if mapping(message, at).get("role") not in _ROLES:
            raise wrong(f"{at}.role", f"must be one of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str | list):
            raise wrong(f"{at}.content", "must be a text or a list of blocks")


def _searches(tool: Body) -> int:
    """How often a tool lets Anthropic search the web at most."""
    kind, most = tool.get("type"), tool.get("max_uses")
    if not isinstance(kind, str) or not kind.startswith("web_search"):
        return 0
    return min(most, _MOST_SEARCHES) if type(most) is int and most >= 0 else SEARCHES


def _limited(tool: Body) -> Body:
    return {**tool, "max_uses": _searches(tool)} if tool.get("max_uses") is None and _searches(tool) else tool


def _model(value: Any) -> str:
    model = string(value, "model")
    if not model or len(model) > _MAX_NAME or not model.isprintable():
        raise wrong("model", "must be the name of a model, such as anthropic:claude-opus-5-5 or sim:echo")
    return model


def _told(error: BackstayError) -> Body:
    """The error as Anthropic's clients read it: they raise by status, and show `details.error_code` as its code."""
    kind = _ERRORS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    details: Body = {"error_code": error.code}
    message = error.detail
    if error.errors:
        details["field"] = error.errors[0].field
        message = f"{error.errors[0].field}: {error.errors[0].message}"
    return {"type": "error", "error": {"type": kind, "message": message, "details": details}}
