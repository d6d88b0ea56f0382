"""Options of the simulator, in the model's name or in the header `backstay-sim`.

    sim:<behaviour>[?<option>=<value>[&<option>=<value>…]]

behaviours  echo      repeats the last user message
            extract   answers with sentences of the given context that are closest to the question
            tools     calls a tool that was offered (the one that must be called, where the request says so), then
                      reports its result; fills the JSON schema that is asked for where there is no tool to call
            json      answers with JSON that fits the schema that is asked for, or as the arguments of the tool that
                      must be called; without a schema, with the names that stand in quotes in the question
            script    plays the script in the system message, one step a turn
            dev-hash  (embeddings) a hashing embedder for tests; it knows no meanings
options     tokens=N      the answer has exactly N tokens (a token is a word)
            think=N       N tokens of thought come before the answer
            ttft=T        time to the first token, such as 100ms or 1.5s
            itl=T         time between two tokens
            usage=none    no usage is reported
            price=USD     what a call costs, such as 0.10; nothing when left out
            dims=N        (dev-hash) dimensions of the vectors, 256 when left out
            fault=F       one of
                          status:CODE[:T]   answers with that status; T is sent as Retry-After
                          reset             the connection is reset before any answer
                          silence           no answer ever comes
                          cut:N             the connection breaks after N tokens
                          stall:N           nothing more comes after N tokens, the connection stays
                          malformed:N       an event that is not JSON after N tokens, then all goes on
                          error:N[:CODE]    an error event, inside the answer with status 200, after N tokens; CODE
                                            is the status that it stands for
                          bare:N[:CODE]     the same, outside of any event and over several lines, as Google does it
                          no-done           the end mark is missing
                          flap:M/N[:CODE[:T]]  of every N calls the first M answer with that status, 503 when left out
                          too-long          the request is refused as longer than the model takes
                          filtered          the request is refused by a content filter
                          boundless         the answer does not keep to the limit that it was given
                          prefill           a request that ends with the beginning of its answer is refused
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

BEHAVIOURS = ("echo", "extract", "tools", "json", "script")
EMBEDDER = "dev-hash"
MAX_TOKENS, MAX_SECONDS, MAX_DIMENSIONS = 100_000, 3600.0, 4096
_DURATION = re.compile(r"(\d{1,7}(?:\.\d{1,6})?)(ms|s)")
_AFTER = ("cut", "stall", "malformed")
_ERRORS = ("error", "bare")
_PLAIN = ("reset", "silence", "no-done", "too-long", "filtered", "prefill", "boundless")


class BadOptions(ValueError):
    """The options do not follow the grammar; the message says where and what would be right."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`after`: tokens before it; `status` (0: none), `retry_after` (s) for statuses; `down` of `of` calls fail when
    flapping."""

    kind: str
    after: int = 0
    status: int = 0
    retry_after: float | None = None
    down: int = 0
    of: int = 0


@dataclass(frozen=True, slots=True)
class SimOptions:
    """How the simulator behaves for one call. Durations in seconds, the price in USD."""

    behaviour: str
    tokens: int | None = None
    ttft: float = 0.0
    itl: float = 0.0
    usage: bool = True
    price: Decimal | None = None
    dims: int = 256
    fault: Fault | None = None
    think: int = 0

    @property
    def model(self) -> str:
        """The name that answers carry."""
        return f"sim:{self.behaviour}"

    @classmethod
    @lru_cache(maxsize=1024)
    def parse(cls, model: str, header: str | None = None) -> "SimOptions":
        """Reads `echo?tokens=5` (with or without `sim:` in front) and the header, whose options win.

        Raises:
            BadOptions: an unknown behaviour or option, or a value out of range.
        """
        behaviour, _, query = model.removeprefix("sim:").partition("?")
        if behaviour not in (*BEHAVIOURS, EMBEDDER):
            raise BadOptions(f"the simulator has no {behaviour!r}; it has {', '.join((*BEHAVIOURS, EMBEDDER))}")
        values = dict(_pairs(query)) | dict(_pairs(header or ""))
        return cls(behaviour, **{name: _READERS[name](value) for name, value in values.items()})


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals or name not in _READERS:
            raise BadOptions(f"the simulator has no option {part!r}; it has {', '.join(_READERS)}")
        yield name, unquote(value)


def _whole(value: str, most: int, least: int = 0) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10 and least <= int(value) <= most):
        raise BadOptions(f"{value!r} must be a whole number from {least} to {most}")
    return int(value)


def _seconds(value: str) -> float:
    match = _DURATION.fullmatch(value)
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else -1.0
    if not 0 <= seconds <= MAX_SECONDS:
        raise BadOptions(f"{value!r} must be a time such as 100ms or 1.5s, at most {MAX_SECONDS:g}s")
    return seconds


def _price(value: str) -> Decimal:
    try:
        price = Decimal(value)
    except InvalidOperation:
        price = Decimal(-1)
    if not price.is_finite() or not 0 <= price <= 1000:
        raise BadOptions(f"{value!r} must be a price in USD from 0 to 1000, such as 0.10")
    return price


def _usage(value: str) -> bool:
    if value != "none":
        raise BadOptions("usage can only be none")
    return False


def _fault(value: str) -> Fault:
    kind, _, argument = value.partition(":")
    if kind in _PLAIN and not argument:
        return Fault(kind)
    if kind in _ERRORS and argument:
        tokens, _, meant = argument.partition(":")
        return Fault(kind, after=_whole(tokens, MAX_TOKENS), status=_whole(meant, 599, 400) if meant else 0)
    if kind in _AFTER and argument:
        return Fault(kind, after=_whole(argument, MAX_TOKENS))
    if kind == "status":
        status, _, wait = argument.partition(":")
        return Fault(kind, status=_whole(status, 599, 400), retry_after=_seconds(wait) if wait else None)
    if kind == "flap":
        share, *rest = argument.split(":", 2)
        down, _, of = share.partition("/")
        period, code = _whole(of, 1000, 1), _whole(rest[0], 599, 400) if rest else 503
        after = _seconds(rest[1]) if len(rest) > 1 else None
        return Fault(kind, down=_whole(down, period), of=period, status=code, retry_after=after)
    raise BadOptions(
        f"{value!r} is no fault; there are status:CODE[:T], reset, silence, cut:N, stall:N, malformed:N, "
        "error:N[:CODE], bare:N[:CODE], no-done, flap:M/N[:CODE[:T]], too-long, filtered, prefill and boundless"
    )


_READERS: dict[str, Callable[[str], Any]] = {
    "tokens": lambda value: _whole(value, MAX_TOKENS),
    "think": lambda value: _whole(value, MAX_TOKENS),
    "ttft": _seconds,
    "itl": _seconds,
    "usage": _usage,
    "price": _price,
    "dims": lambda value: _whole(value, MAX_DIMENSIONS, 1),
    "fault": _fault,
}
