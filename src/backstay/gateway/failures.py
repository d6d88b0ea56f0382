"""What a provider's failure is, and what is done about it: the table of the design, row by row."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from ..kernel.errors import BackstayError
from ..outbound import retry_after
from .errors import (
    ContentFiltered,
    ContextTooLong,
    GatewayError,
    ProviderFailed,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnreachable,
    StreamCut,
)
from .exchange import Exchange
from .providers import Provider
from .wire import EmbedWire, Wire

_TOLD = ("retry-after", "retry-after-ms", "x-should-retry")
_BUSY = 429
_KEY_REFUSED = (401, 403)
_TOO_LONG = re.compile(
    r"context.{0,3}length|context window|prompt is too long|too many (input )?tokens|input token count"
    r"|maximum number of tokens|reduce the length",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content.?(filter|policy|management)|responsible ai|safety system|flagged", re.IGNORECASE)
_PREFILL = re.compile(r"prefill|end with a user|final (assistant|message)|last message", re.IGNORECASE)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s", re.ASCII)
_FILTER_CODES = ("content_filter", "content_policy_violation", "moderation_blocked")

Verdict = Literal["good", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Conduct:
    """`retry`: ask the same target again, not before `after` seconds have passed (None: after a backoff). `fall_back`:
    ask the next target; with `larger`, only one that takes longer requests. `health`: what it says of the target."""

    retry: bool = False
    fall_back: bool = True
    after: float | None = None
    larger: bool = False
    health: Verdict = "bad"


def conduct(error: GatewayError, *, fall_back_on_filter: bool = False) -> Conduct:
    """What to do when an attempt ended with `error`."""
    if isinstance(error, ContextTooLong):
        return Conduct(larger=True, health="good")
    if isinstance(error, ContentFiltered):
        return Conduct(fall_back=fall_back_on_filter, health="good")
    if isinstance(error, ProviderRefused):
        if error.status == _BUSY:
            return Conduct(retry=True, after=retry_after(error.headers, datetime.now(UTC)), health="unknown")
        # The request is at fault, or this target's way of reading it: another one may take it.
        return Conduct(health="good", fall_back=error.status != 413)
    if isinstance(error, ProviderTimeout):
        # A silent target stays silent: asking it again would only add to the wait.
        return Conduct(fall_back=error.phase != "total")
    if isinstance(error, ProviderUnreachable | StreamCut):
        return Conduct(retry=True)
    if isinstance(error, ProviderFailed):
        return Conduct(retry=error.status_seen not in _KEY_REFUSED, after=retry_after(error.headers, datetime.now(UTC)))
    return Conduct(fall_back=False, health="unknown")


def raise_for_status(exchange: Exchange, raw: bytes, wire: EmbedWire | Wire, provider: Provider) -> None:
    """Nothing, when the provider answered with status 200.

    Raises:
        ProviderRefused, ContextTooLong, ContentFiltered: the request is at fault, or too early.
        ProviderFailed: the provider is.
    """
    status = exchange.status
    if status == 200:
        return
    headers = _wait(_parsed(raw)) | {name: exchange.headers[name] for name in _TOLD if name in exchange.headers}
    if status in _KEY_REFUSED:
        raise ProviderFailed(provider.refusal, status_seen=status)
    if 400 <= status < 500:
        body = _parsed(raw)
        detail = wire.error_of(body) or f"the provider answered with status {status}"
        raise _refused(status, detail, body)(detail, status, raw, headers, wire.name)
    detail = f"the provider answered with status {status}"
    raise ProviderFailed(detail, headers=headers, status_seen=status, wire=wire.name)


def understood(raw: bytes, wire: EmbedWire | Wire, provider: Provider) -> dict[str, Any]:
    """A whole answer with status 200, parsed.

    Raises:
        ProviderFailed: it is not JSON, or an error all the same.
        ProviderRefused and its kinds: an error that finds fault with the request.
    """
    body = _parsed(raw)
    if body is None:
        raise ProviderFailed("the provider's answer is not JSON")
    if not isinstance(body, dict):
        raise ProviderFailed("the provider's answer is not a JSON object")
    if (message := wire.error_of(body)) is not None:
        raise reported(ProviderFailed(f"the provider reported an error in its answer: {message}"), body, wire, provider)
    return body


def reported(error: ProviderFailed, body: Any, wire: EmbedWire | Wire, provider: Provider) -> GatewayError:
    """The error that stands in an answer with status 200, as if it had come with the status that it stands for. `error`
    is what it is when it stands for none."""
    status = wire.status_of(body)
    if status is None:
        return error
    if status in _KEY_REFUSED:
        return ProviderFailed(provider.refusal, status_seen=status)
    if status < 500:
        # Its body is no answer by itself, and so of no format.
        return _refused(status, error.detail, body)(error.detail, status, b"", _wait(body), "")
    return ProviderFailed(error.detail, headers=_wait(body), status_seen=status, wire=wire.name)


def refuses_prefill(error: BackstayError) -> bool:
    """A target does not take a request that ends with the beginning of the answer."""
    return isinstance(error, ProviderRefused) and error.status == 400 and bool(_PREFILL.search(error.detail))


def _refused(status: int, detail: str, body: Any) -> type[ProviderRefused]:
    if status in (400, 413) and (_code(body) == "context_length_exceeded" or _TOO_LONG.search(detail)):
        return ContextTooLong
    if status == 400 and (_code(body) in _FILTER_CODES or _FILTERED.search(detail)):
        return ContentFiltered
    return ProviderRefused


def _wait(body: Any) -> dict[str, str]:
    """Google says in its error how long to wait, and not in a header; in whole seconds as one, and never sooner."""
    body = body[-1] if isinstance(body, list) and body else body
    error = body.get("error") if isinstance(body, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (found := _DURATION.fullmatch(delay)):
            return {"retry-after": str(math.ceil(float(found[1])))}
    return {}


def _code(body: Any) -> Any:
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("code") if isinstance(error, Mapping) else None


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
