"""JSON for the database: what it cannot hold is the caller's mistake and says so."""

from collections.abc import Callable
from typing import Any

import orjson

from .errors import Invalid


class Encoded:
    """JSON that a statement takes as it is. As a text it would be copied twice on its way, and a batch's is long."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text


def dumps(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """`value` as JSON. NaN and infinity become null, as JSON has neither.

    Raises:
        Invalid: a number beyond 64 bits, text that is no Unicode (a lone surrogate), a key that is no text, or a type
            that JSON does not have and `default` does not translate.
    """
    try:
        return orjson.dumps(value, default=default)
    except TypeError as error:
        raise Invalid(f"a value cannot be stored as JSON: {error}") from None
