"""Errors as OpenAI's clients read them: the same in every format of theirs."""

from typing import Any

from ...kernel.errors import BackstayError

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
_LONGEST = 500


def told(error: BackstayError) -> dict[str, Any]:
    """What stands under `error` in a body, and flat in an event."""
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
