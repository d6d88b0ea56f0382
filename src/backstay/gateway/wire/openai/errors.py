"""Errors as OpenAI's clients read them: the same in every format of theirs."""

from typing import Any

import orjson

from ....kernel.errors import BackstayError
from ...models import Usage
from ..base import Body, status
from .words import usage_as_openai

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
# What a code or a type stands for; a code that is a number stands for itself.
_STATUSES = {
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "overloaded_error": 529,
    "timeout": 504,
}
_LONGEST = 500


def told(error: BackstayError) -> dict[str, Any]:
    """What stands under `error` in a body, and flat in an event of the Responses API."""
    return {
        "message": error.detail if not error.errors else f"{error.detail}: {error.errors[0].message}",
        "type": _TYPES.get(error.status, "server_error"),
        "param": error.errors[0].field if error.errors else None,
        "code": error.code,
    }


def heard(error: Any) -> str:
    """The message in an `error` of a provider, which is an object or, at some, a text."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:_LONGEST] if message else "the provider reported an error without a message"


def error_of(answer: Any) -> str | None:
    """The message of an error that a provider put into an answer; None when there is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return heard(error) if error else None


def status_of(answer: Any) -> int | None:
    """The status that such an error stands for, by its code or else by its type."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return meant(error) if isinstance(error, dict) else None


def meant(error: Body) -> int | None:
    """The status of an error, given as its object."""
    code, kind = error.get("code"), error.get("type")
    return status(code) or _STATUSES.get(str(code)) or _STATUSES.get(str(kind))


def error_body(error: BackstayError, usage: Usage | None = None) -> bytes:
    """The error as a body, or in the middle of a stream with the usage so far."""
    content = told(error)
    if usage is not None:
        content["usage"] = usage_as_openai(usage)
    return orjson.dumps({"error": content})
