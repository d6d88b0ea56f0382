"""Structured logs and Prometheus metrics: how a process tells what it does.

Metric names start with `backstay_`; a tenant or a user never becomes a label (a label's values live for ever).
With `PROMETHEUS_MULTIPROC_DIR` set, `render` adds up every process that shares that directory.
"""

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

registry = CollectorRegistry()
METRICS_TYPE = CONTENT_TYPE_LATEST
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SECRETS = re.compile(
    r"(\bsk-|\bbs_[a-z]+_|\bBearer\s+|\bwhsec_|\beyJ(?=[\w-]+\.[\w-]+\.))[^\s\"',;@]{6,}"  # keys and tokens
    r"|(://[^:/@\s]*:)[^\s\"'/]+(?=@)"  # the password in a URL
    r"|(\bpass(?:word|wd)?=)[^\s\"'&,;]+",  # and in a connection string
    re.IGNORECASE,
)


def counter(name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(name, doc, labels, registry=registry)


def histogram(name: str, doc: str, labels: Sequence[str] = (), buckets: Sequence[float] = _FAST) -> Histogram:
    return Histogram(name, doc, labels, registry=registry, buckets=buckets)


def gauge(
    name: str,
    doc: str,
    labels: Sequence[str] = (),
    mode: Literal["livesum", "livemax", "livemostrecent"] = "livesum",
) -> Gauge:
    return Gauge(name, doc, labels, registry=registry, multiprocess_mode=mode)


def render() -> bytes:
    """Every metric in the Prometheus text format."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # the library leaves it untyped
        return generate_latest(shared)
    return generate_latest(registry)


def log(room: str) -> "FilteringBoundLogger":
    """The logger of a room; every line carries its name."""
    return cast("FilteringBoundLogger", structlog.get_logger(room=room))


def scrub(text: str) -> str:
    """`text` with everything that looks like a key, a token or a connection's password replaced."""
    return _SECRETS.sub(lambda match: (match[1] or match[2] or match[3]) + "…", text)


def _scrubbed(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _scrubbed(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrubbed(item) for item in value]
    return scrub(str(value))


def _scrub_event(_: "WrappedLogger", __: str, event: "EventDict") -> "EventDict":
    return {key: _scrubbed(value) for key, value in event.items()}


def ensure_logging(level: str, style: str) -> None:
    """Configures logging unless the program that Backstay is a part of has done so."""
    if not structlog.is_configured():
        configure_logging(level, style)


def configure_logging(level: str = "info", style: str = "auto") -> None:
    """Send every log line to stderr: JSON, or coloured text when `style` is pretty or a terminal reads it."""
    pretty = style == "pretty" or (style == "auto" and sys.stderr.isatty())
    last: Any = _pretty() if pretty else structlog.processors.JSONRenderer()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # as text, so that it is scrubbed too
        _scrub_event,
        last,
    ]
    threshold = logging.getLevelName(level.upper())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s")


def _pretty() -> Any:
    # The renderer's own tracebacks show local variables (questions, keys) and take a second to draw.
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
