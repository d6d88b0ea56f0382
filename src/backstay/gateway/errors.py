"""What may go wrong with a model call.

GatewayError
├── ModelNotFound        404  no provider answers to that model name
├── BadModelOptions      422  the simulator's options in the model name are wrong
├── TagRequired          400  the tenant asks for a tag that the call lacks
├── PriceUnknown         422  no price is known, and none was set for that case
├── GuardBlocked         403  a guard lets the request, or the answer, go no further
├── BudgetExceeded       402  a hard budget has no room; the call consumed nothing
├── RateLimited          429  a limit of requests, tokens or concurrency has no room; the call consumed nothing
├── ProviderRefused      as the provider said (4xx)
│   ├── ContextTooLong   400  the request is longer than the model takes
│   └── ContentFiltered  400  the provider will not answer this
└── ProviderFailed       502  the provider failed; 503 when it said that it is overloaded or away, 504 when too slow
    ├── ProviderResting      503  every target has failed lately and is left alone for a while
    ├── ProviderUnreachable  502  no connection, or one that was reset before an answer
    ├── StreamCut            502  the answer stopped in the middle
    └── ProviderTimeout      504  connect, first token, idle or total limit passed
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..kernel.errors import BackstayError, FieldError
from .models import Usage

OVERLOADED = 529  # Anthropic's own status; some others use it as well
_FINAL = {"x-should-retry": "false"}
# What a caller is told where it makes a difference to him that the provider answered so. 524 is Cloudflare's timeout.
_TOLD = {503: 503, OVERLOADED: 503, 504: 504, 524: 504}


class GatewayError(BackstayError):
    """Root of the gateway's own errors. `usage` tells what was used before it happened, when anything was."""

    code, status, title = "gateway_error", 502, "The model call failed"
    usage: Usage | None = None


class ModelNotFound(GatewayError):
    code, status, title = "model_not_found", 404, "Model not found"


class BadModelOptions(GatewayError):
    code, status, title = "bad_model_options", 422, "Model options are wrong"


class TagRequired(GatewayError):
    """`errors` has one for each missing tag, and says how to send it."""

    code, status, title = "tag_required", 400, "A tag is missing that the tenant requires"

    def __init__(self, detail: str, errors: Sequence[FieldError]) -> None:
        super().__init__(detail, errors=errors, headers=_FINAL)


class PriceUnknown(GatewayError):
    code, status, title = "price_unknown", 422, "No price is known for this model"

    def __init__(self, model: str, what: str = "") -> None:
        super().__init__(
            f"no price is known for {what}{model}, so its cost could not be counted; the operator may set "
            "BACKSTAY_UNKNOWN_PRICE (USD per million tokens, 0 allowed)",
            headers=_FINAL,
        )


class BudgetExceeded(GatewayError):
    """`model`: the one that the budget is of, if it is one of a model's or a route's."""

    code, status, title = "budget_exceeded", 402, "A budget has no room for this call"

    def __init__(self, detail: str, headers: Mapping[str, str] | None = None, *, model: str | None = None) -> None:
        super().__init__(detail, headers={**(headers or {}), **_FINAL})
        self.model = model


class RateLimited(GatewayError):
    """`headers` say when to come back (`retry-after`), whether to (`x-should-retry`), and what the limits have left.
    `model` as in BudgetExceeded."""

    code, status, title = "rate_limited", 429, "A limit has no room for this call"

    def __init__(self, detail: str, headers: Mapping[str, str], *, model: str | None = None) -> None:
        super().__init__(detail, headers=headers)
        self.model = model


class GuardBlocked(GatewayError):
    code, status, title = "guard_blocked", 403, "A guard stopped this"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers=_FINAL)


class ProviderRefused(GatewayError):
    """The provider found fault with the request. `body` is its answer, in the wire format `wire`."""

    code, status, title = "provider_refused", 400, "The provider refused the request"

    def __init__(
        self, detail: str, status: int, body: bytes, headers: Mapping[str, str], wire: str = "openai-chat"
    ) -> None:
        super().__init__(detail, headers=headers)
        self.status, self.body, self.wire = status, body, wire


class ContextTooLong(ProviderRefused):
    code, status, title = "context_length_exceeded", 400, "The request is longer than the model takes"


class ContentFiltered(ProviderRefused):
    code, status, title = "content_filter", 400, "The provider will not answer this"


class ProviderFailed(GatewayError):
    """`status_seen`: the status that the provider answered with, when it did, in the wire format `wire`."""

    code, status, title = "provider_failed", 502, "The provider failed"

    def __init__(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        status_seen: int | None = None,
        wire: str | None = None,
    ) -> None:
        super().__init__(detail, headers=headers)
        self.status_seen, self.wire = status_seen, wire
        if status_seen is not None:
            self.status = _TOLD.get(status_seen, self.status)


class ProviderResting(ProviderFailed):
    code, status, title = "provider_resting", 503, "The provider failed lately and is left alone for now"


class ProviderUnreachable(ProviderFailed):
    code, status, title = "provider_unreachable", 502, "The provider cannot be reached"


class StreamCut(ProviderFailed):
    code, status, title = "stream_cut", 502, "The answer was cut off"


class ProviderTimeout(ProviderFailed):
    """`phase` is one of connect, first_token, idle, total."""

    code: ClassVar[str] = "provider_timeout"
    status, title = 504, "The provider took too long"

    def __init__(self, phase: str, seconds: float) -> None:
        words = {
            "connect": "no connection to the provider",
            "first_token": "no first token from the provider",
            "idle": "the provider fell silent in the middle of its answer, nothing",
            "total": "the provider did not finish its answer",
        }
        super().__init__(f"{words[phase]} within {seconds:g} s")
        self.phase = phase
