"""Fields of a Messages request, read with the name that stands in the error when they are wrong."""

from typing import Any

import orjson

from ..base import Body
from ..fields import wrong
from ..values import mapping

# JSON that is nested deeper than this cannot be written again inside a body.
MAX_DEPTH = 200


def maybe_mapping(value: Any, field: str) -> Body | None:
    return None if value is None else mapping(value, field)


def whole(value: Any, field: str, least: int, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise wrong(field, f"must be a whole number from {least} to {most}")
    return value


def number(value: Any, field: str, least: float, most: float) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise wrong(field, f"must be a number from {least:g} to {most:g}")
    return float(value)


def json_text(value: Any, field: str) -> str:
    """`value` as JSON."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise wrong(field, "is nested too deeply") from None


def too_deep(value: Any) -> bool:
    """Whether `value` is nested deeper than MAX_DEPTH. Walks without recursion, so that depth cannot break it."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
