"""Reading requests: JSON in, and errors that name the field."""

from collections.abc import Mapping
from typing import Any

import orjson

from ...kernel import json
from ...kernel.errors import BadRequest, FieldError
from .base import Body

MAX_TOKENS = 10_000_000
MAX_CHOICES = 128
_MAX_NAME = 512
# What a picture, a sound or a file may cost in tokens cannot be seen from its bytes; this is reserved for each.
MEDIA_TOKENS = 8_192


def parse(raw: bytes) -> Body:
    """The JSON object in `raw`.

    Raises:
        BadRequest: not JSON, or not an object (400).
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def wrong(field: str, message: str) -> BadRequest:
    """The error for one field; `message` says what it must be."""
    return BadRequest(f"`{field}` is wrong", errors=[FieldError(field, message)])


def model(body: Mapping[str, Any]) -> str:
    name = body.get("model")
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME or not name.isprintable():
        raise wrong("model", "must be the name of a model, such as openai:gpt-5.2 or sim:echo")
    return name


def count(body: Mapping[str, Any], name: str, most: int = MAX_TOKENS, least: int = 1, at: str = "") -> int | None:
    """A whole number, or None where there is none. `at`: where `body` stands in the request."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise wrong(at + name, f"must be a whole number from {least} to {most}")
    return value


def number(body: Mapping[str, Any], name: str, at: str = "") -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong(at + name, "must be a number")
    return value


def text(body: Mapping[str, Any], name: str, at: str = "") -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(at + name, "must be a text")
    return value


def needed(body: Mapping[str, Any], name: str, at: str = "") -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise wrong(at + name, "must be a text")
    return value


def flag(body: Mapping[str, Any], name: str, at: str = "") -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(at + name, "must be true or false")
    return value


def mapping(body: Mapping[str, Any], name: str, at: str = "") -> Body | None:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise wrong(at + name, "must be an object")
    return value


def objects(body: Mapping[str, Any], name: str, at: str = "") -> list[Body]:
    """A list of objects; an absent one is empty."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(at + name, "must be a list")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise wrong(f"{at}{name}[{index}]", "must be an object")
    return value


def tokens(usage: Any, name: str) -> int:
    """A count that a provider gave; nothing sensible counts nothing."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else 0


def size_of(value: Any) -> int:
    """Bytes of `value` as JSON.

    Raises:
        Invalid: JSON has no such value (422).
    """
    return len(json.dumps(value))


def user(body: Mapping[str, Any], name: str = "user") -> str | None:
    """The caller's own user, whom budgets and spend know."""
    return text(body, name) or None
