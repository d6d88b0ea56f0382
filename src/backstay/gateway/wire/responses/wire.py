"""OpenAI's Responses API as a wire format, for clients and for providers.

It keeps nothing: what rests on conversations, prompts or tools that live at OpenAI passes when OpenAI itself answers,
and is refused by name when the request has to be translated.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from ....kernel.errors import BackstayError
from ...dialogue import Ask, Request, Said
from ...models import Usage
from ..base import Body, Quirks, Reader
from ..openai import errors
from . import answer as answers
from . import request as requests
from . import seal as seals
from .reader import ResponsesReader
from .writer import ResponsesWriter, whole

_PING = b": ping\n\n"
# An error is the last event of its stream, whoever counted those before it.
_LAST = 2**31 - 1


class OpenAIResponses:
    """See Wire."""

    name: ClassVar[str] = seals.ORIGIN
    end_mark: ClassVar[bytes] = b""

    def check(self, body: Body, size: int | None = None) -> Request:
        return requests.checked(body, size)

    def read(self, body: Body) -> Ask:
        return requests.understood(body)

    def write(self, ask: Ask, quirks: Quirks) -> Body:
        return requests.written(ask, quirks)

    def native(self, body: Body, model: str) -> Body:
        return {**requests.native(body), "model": model}

    def read_answer(self, body: Body) -> Said:
        return answers.understood(body)

    def write_answer(self, said: Said, request: Request | None = None) -> Body:
        return whole(said, request)

    def usage_of(self, body: Mapping[str, Any]) -> Usage | None:
        return answers.usage_of(body)

    def error_of(self, body: Any) -> str | None:
        return answers.error_of(body)

    def status_of(self, body: Any) -> int | None:
        return answers.status_of(body)

    def reader(self) -> ResponsesReader:
        return ResponsesReader()

    def writer(self, request: Request) -> ResponsesWriter:
        return ResponsesWriter(request)

    def relay(self, reader: Reader, data: bytes, request: Request) -> bytes | None:
        if reader.body is None:
            return None
        if b"\n" in data:
            data = data.replace(b"\n", b"\ndata: ")
        return b"event: %b\ndata: %b\n\n" % (reader.body["type"].encode(), data)

    def missing(self, reader: Reader, said: Said, request: Request) -> list[Body]:
        """Nothing: without its last event this format's stream is not finished."""
        return []

    def frame(self, event: Body) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))

    def ping(self) -> bytes:
        return _PING

    def error_body(self, error: BackstayError, request_id: str | None = None) -> bytes:
        return orjson.dumps({"error": errors.told(error)})

    def error_event(self, error: BackstayError, usage: Usage | None = None) -> bytes:
        """The fields stand flat, as the reference has them, and under `error` as well, as OpenAI sends them: its own
        clients raise only on the latter."""
        told = errors.told(error)
        nested = told if usage is None else told | {"usage": answers.written_usage(usage)}
        flat = {key: told[key] for key in ("code", "message", "param")}
        return self.frame({"type": "error", **flat, "sequence_number": _LAST, "error": nested})
