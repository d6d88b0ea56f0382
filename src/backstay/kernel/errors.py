"""One tree of errors, each with a stable code, an HTTP status and a message that is safe to show.

BackstayError
├── ConfigurationError   500  the operator has to mend a setting before the process may start
├── Invalid              422  the input was understood and is wrong
├── BadRequest           400  the input could not be understood
├── Unauthorized         401  no key, or one that is not known
├── PaymentRequired      402  a budget refuses
├── Forbidden            403  known, but without the permission
├── NotFound             404
├── MethodNotAllowed     405
├── Conflict             409  the present state does not allow it
├── Gone                 410  it was there once
├── TooLarge             413
├── TooMany              429  a limit refuses for now
├── Upstream             502  a service we call failed
├── Unavailable          503  ours, for now
└── TimedOut             504  a deadline passed
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: where it stands (`body.limit`) and what is wrong with it."""

    field: str
    message: str


class BackstayError(Exception):
    """Root of every error Backstay raises on purpose. `detail` is shown to the caller: keep secrets out."""

    code: ClassVar[str] = "internal"
    status: int = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    def problem(self, trace_id: str | None = None) -> dict[str, Any]:
        """The error as a problem document (RFC 9457)."""
        return {
            "type": f"urn:backstay:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "trace_id": trace_id,
            "errors": [{"field": error.field, "message": error.message} for error in self.errors],
        }


class ConfigurationError(BackstayError):
    code, status, title = "configuration", 500, "Configuration error"


class BadRequest(BackstayError):
    code, status, title = "bad_request", 400, "Bad request"


class Unauthorized(BackstayError):
    code, status, title = "unauthorized", 401, "Not authenticated"


class PaymentRequired(BackstayError):
    code, status, title = "payment_required", 402, "Budget exhausted"


class Forbidden(BackstayError):
    code, status, title = "forbidden", 403, "Not permitted"


class NotFound(BackstayError):
    code, status, title = "not_found", 404, "Not found"


class MethodNotAllowed(BackstayError):
    code, status, title = "method_not_allowed", 405, "Method not allowed"


class Conflict(BackstayError):
    code, status, title = "conflict", 409, "Conflict"


class Gone(BackstayError):
    code, status, title = "gone", 410, "Gone"


class TooLarge(BackstayError):
    code, status, title = "too_large", 413, "Too large"


class Invalid(BackstayError):
    code, status, title = "invalid", 422, "Invalid input"


class TooMany(BackstayError):
    code, status, title = "too_many_requests", 429, "Too many requests"


class Upstream(BackstayError):
    code, status, title = "upstream", 502, "A service behind Backstay failed"


class Unavailable(BackstayError):
    code, status, title = "unavailable", 503, "Not available for now"


class TimedOut(BackstayError):
    code, status, title = "timed_out", 504, "A deadline passed"


class TenantMismatch(Conflict):
    """A transaction of one tenant was handed to a call for another one."""

    code, title = "tenant_mismatch", "The transaction belongs to another tenant"
