"""Reads a caller's JSON field by field; what is wrong is named by the place where it stands."""

from typing import Any

from ....kernel.errors import BadRequest, FieldError
from ..fields import wrong

_NATIVE = "only OpenAI's Responses API itself understands it, and the model asked for is served in another format"


def untranslatable(path: str, mend: str) -> BadRequest:
    """The field is in order, and no other format can say it."""
    return BadRequest(f"`{path}` cannot be translated", errors=[FieldError(path, f"{_NATIVE}; {mend}")])


def name(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise wrong(path, "must be a text that is not empty")
    return value


def count(value: Any, path: str, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise wrong(path, f"must be a whole number from 1 to {most}")
    return value


def number(value: Any, path: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong(path, "must be a number")
    return value


def fields(value: Any, path: str) -> dict[str, Any]:
    """The object; none counts as empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(path, "must be an object")
    return value
