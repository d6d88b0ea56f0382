"""Reading values of a request that stand anywhere in it; the error names the place."""

from typing import Any

from .base import Body
from .fields import wrong


def string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise wrong(path, "must be a text")
    return value


def maybe_string(value: Any, path: str) -> str | None:
    return None if value is None else string(value, path)


def mapping(value: Any, path: str) -> Body:
    if not isinstance(value, dict):
        raise wrong(path, "must be an object")
    return value


def items(value: Any, path: str) -> list[Any]:
    """The list in `value`; an absent one is empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(path, "must be a list")
    return value


def flag(value: Any, path: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise wrong(path, "must be true or false")
    return value
