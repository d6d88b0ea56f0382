"""The Gemini wire format (Generative Language API, v1beta), for clients that speak it and for Google's models.

Model, method and streaming stand in the path of a request and not in its body: the front puts them into the parsed
body as the private keys `model` (a text) and `stream` (true or false) before it calls `check` or `read`. `native`
takes them out again when a body goes on to a provider of the same format, and `write` never writes them. `path` makes
the provider's path.

Built-in tools, cached contents and the like pass through where both sides speak Gemini, and are refused where a
translation is needed. `pack_id` and `unpack_id` are for the writers of other formats: see there.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import orjson

from ....kernel.errors import BackstayError
from ...dialogue import Ask, Request, Said
from ...models import Usage
from ..base import Body, Quirks, Reader
from . import answer, read, stream, write
from .answer import usage_metadata
from .embed import GeminiEmbed, count_answer, count_request, resource
from .stream import GeminiReader, GeminiWriter

_METHODS = {
    ("chat", False): "generateContent",
    ("chat", True): "streamGenerateContent?alt=sse",
    ("embed", False): "batchEmbedContents",
    ("count", False): "countTokens",
}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    410: "NOT_FOUND",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE = "type.googleapis.com/google.rpc."
Kind = Literal["chat", "embed", "count"]


def path(model: str, kind: Kind, stream: bool = False) -> str:
    """Where a provider's `model` is asked, under its base URL with the API version: `models/m:generateContent`."""
    collection, _, name = resource(model).partition("/")
    return f"{collection}/{quote(name, safe='')}:{_METHODS[kind, stream]}"


class Gemini(GeminiEmbed):
    """Wire and EmbedWire of the format. A stream has no end mark; the end of the transport ends it."""

    name: ClassVar[str] = "gemini"
    end_mark: ClassVar[bytes] = b""

    def check(self, body: Body, size: int | None = None) -> Request:
        return read.check(body, size)

    def read(self, body: Body) -> Ask:
        return read.read(body)

    def check_count(self, body: Body, size: int | None = None) -> Request:
        return read.check(count_request(body), size)

    def count(self, body: Body) -> Body:
        """For models whose provider cannot count: four bytes of what is sent are taken for a token."""
        return count_answer((self.check_count(body).input_bound + 3) // 4)

    def write(self, ask: Ask, quirks: Quirks | None = None) -> Body:
        return write.write(ask)

    def read_answer(self, body: Body) -> Said:
        return answer.read_answer(body)

    def write_answer(self, said: Said, request: Request | None = None) -> Body:
        return answer.write_answer(said)

    def usage_of(self, body: Mapping[str, Any]) -> Usage | None:
        return answer.usage_of(body)

    def error_of(self, body: Any) -> str | None:
        return stream.error_of(body)

    def status_of(self, body: Any) -> int | None:
        return stream.status_of(body)

    def reader(self) -> GeminiReader:
        return GeminiReader()

    def writer(self, request: Request) -> GeminiWriter:
        return GeminiWriter(request)

    def relay(self, reader: Reader, data: bytes, request: Request) -> bytes | None:
        if reader.body is None:
            return None
        # Several clients read one line an event; a line end inside JSON is space between its words.
        return b"data: %b\n\n" % (data.replace(b"\n", b" ") if b"\n" in data else data)

    def missing(self, reader: Reader, said: Said, request: Request) -> list[Body]:
        """Nothing: the end of the transport is the end."""
        return []

    def frame(self, event: Body) -> bytes:
        return b"data: %b\n\n" % orjson.dumps(event)

    def ping(self) -> bytes:
        """An empty event. Google's clients for Python and Go take a comment for a broken event, but pass over this."""
        return b"\n\n"

    def error_body(self, error: BackstayError, request_id: str | None = None) -> bytes:
        return orjson.dumps({"error": _error(error, request_id)})

    def error_event(self, error: BackstayError, usage: Usage | None = None) -> bytes:
        """The error as an event, and once more bare and without an end, which is how Google itself breaks off a stream:
        its clients for Python and JavaScript raise on the first, its client for Go on the second."""
        content: Body = {"error": _error(error, None)}
        bare = orjson.dumps(content)
        if usage is not None:
            content["usageMetadata"] = usage_metadata(usage)
        return b"data: %b\n\n%b\n" % (orjson.dumps(content), bare)


def _error(error: BackstayError, request_id: str | None) -> Body:
    status = error.status
    details: list[Body] = [{"@type": _TYPE + "ErrorInfo", "reason": error.code.upper(), "domain": "backstay"}]
    if error.errors:
        faults = [{"field": each.field, "description": each.message} for each in error.errors]
        details.append({"@type": _TYPE + "BadRequest", "fieldViolations": faults})
    if (after := error.headers.get("retry-after", "")).isdecimal():
        details.append({"@type": _TYPE + "RetryInfo", "retryDelay": f"{after}s"})
    if request_id is not None:
        details.append({"@type": _TYPE + "RequestInfo", "requestId": request_id})
    return {
        "code": status,
        "message": error.detail if not error.errors else f"{error.detail}: {error.errors[0].message}",
        "status": _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT"),
        "details": details,
    }
