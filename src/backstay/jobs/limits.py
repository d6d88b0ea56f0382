"""Limits as data: how many may start in a time, and how many may run for each key. No I/O."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from ..kernel.errors import Invalid

_RATE = re.compile(r"(\d{1,9})/(\d{0,6})(s|second|seconds|m|minute|minutes|h|hour|hours|d|day|days)")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DAY = 86_400
MAX_KEY = 200


class LimitInvalid(Invalid):
    code, title = "limit_invalid", "The limit is written wrongly"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `starts` jobs begin in any `seconds`, wherever the window is laid (a sliding window)."""

    starts: int
    seconds: float

    def __post_init__(self) -> None:
        if not (1 <= self.starts <= 2**31 - 1 and 0 < self.seconds <= _DAY):
            raise LimitInvalid("a rate is at least 1 start in at most a day")

    @classmethod
    def read(cls, text: str) -> Self:
        """From text such as `100/minute`, `5/s` or `30/10minutes`.

        Raises:
            LimitInvalid
        """
        found = _RATE.fullmatch(text.strip().replace(" ", ""))
        if found is None or found[2] == "0":
            raise LimitInvalid(f"{text!r} is no rate; write it like 100/minute, 5/s or 30/10minutes")
        return cls(int(found[1]), int(found[2] or 1) * _SECONDS[found[3][0]])

    def __str__(self) -> str:
        for letter, unit in reversed(_SECONDS.items()):
            if self.seconds % unit == 0:
                count = int(self.seconds // unit)
                return f"{self.starts}/{count if count > 1 else ''}{letter}"
        return f"{self.starts} in {self.seconds:g} seconds"


@dataclass(frozen=True, slots=True)
class PerKey:
    """At most `limit` jobs of a name run at once for each key of a tenant: `PerKey(3, lambda order: order.customer)`.

    `key` is called when a job is enqueued, with its input. None, or an empty text: this job has no such limit.
    """

    limit: int
    key: Callable[[Any], object]

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise LimitInvalid("a limit for each key is at least 1")

    def of(self, input: Any) -> str:
        """The key's text.

        Raises:
            LimitInvalid: it is longer than 200 characters, or cannot be stored.
        """
        key = self.key(input)
        text = "" if key is None else str(key)
        if len(text) > MAX_KEY or "\0" in text:
            raise LimitInvalid(f"the key of a limit has at most {MAX_KEY} characters, none of them NUL")
        return text
