"""Fields of a Messages request, read with the name that stands in the error when they are wrong."""

from typing import Any

import orjson

from ....kernel.errors import BadRequest, FieldError
from ..base import Body

# JSON that is nested deeper than this cannot be written again inside a body.
MAX_DEPTH = 200


def wrong(field: str, message: str) -> BadRequest:
    return BadRequest(f"`{field}` is wrong", errors=[FieldError(field, message)])


def string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise wrong(field, "must be a text")
    return value


def maybe_string(value: Any, field: str) -> str | None:
    return None if value is None else string(value, field)


def mapping(value: Any, field: str) -> Body:
    if not isinstance(value, dict):
        raise wrong(field, "must be an object")
    return value


def maybe_mapping(value: Any, field: str) -> Body | None:
    return None if value is None else mapping(value, field)


def items(value: Any, field: str) -> list[Any]:
    """The list in `value`; an absent one is empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(field, "must be a list")
    return value


def flag(value: Any, field: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise wrong(field, "must be true or false")
    return value


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
